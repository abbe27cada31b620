//! Who is logged in: a cookie with the user's name. Bookinfo asks for no password either; here nothing is signed, since
//! there is nothing to protect.

use http::HeaderMap;
use http::header::COOKIE;

const NAME: &str = "session";
const LONGEST: usize = 64;

/// The user of a request, if there is one.
pub(crate) fn user(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == NAME && is_name(value)).then_some(value))
}

/// The `username` of a login form's body, if it is a name.
pub(crate) fn login(form: &[u8]) -> Option<&str> {
    let form = std::str::from_utf8(form).ok()?;
    let value = form.split('&').find_map(|pair| pair.strip_prefix("username="))?;
    is_name(value).then_some(value)
}

/// The cookie that logs `user` in; of `None`, out.
pub(crate) fn cookie(user: Option<&str>) -> String {
    match user {
        Some(user) => format!("{NAME}={user}; Path=/; HttpOnly; SameSite=Lax"),
        None => format!("{NAME}=; Path=/; Max-Age=0"),
    }
}

/// Safe in a cookie, a header and a page without any escaping.
fn is_name(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_user_is_found_among_other_cookies() {
        for (cookie, want) in [
            ("session=jason", Some("jason")),
            ("a=b; session=jason; c=d", Some("jason")),
            ("mysession=jason", None),
            ("session=", None),
            ("session=<script>", None),
            ("a=b", None),
        ] {
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(cookie))]);
            assert_eq!(user(&headers), want, "{cookie}");
        }
    }

    #[test]
    fn only_names_log_in() {
        assert_eq!(login(b"username=jason&passwd=x"), Some("jason"));
        assert_eq!(login(b"passwd=x&username=jason"), Some("jason"));
        for form in [&b"username="[..], b"passwd=x", b"username=a%0d%0ab", b"username=\xff", b""] {
            assert_eq!(login(form), None, "{form:?}");
        }
    }
}
