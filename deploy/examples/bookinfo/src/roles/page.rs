//! The pages as people see them: no script, no picture, nothing fetched from elsewhere.

use std::fmt::Write as _;

use serde_json::Value;

/// The one book.
pub(crate) const TITLE: &str = "The Comedy of Errors";
/// What it is about.
pub(crate) const DESCRIPTION: &str = "<a href=\"https://en.wikipedia.org/wiki/The_Comedy_of_Errors\">Wikipedia Summary</a>: The Comedy \
     of Errors is one of <b>William Shakespeare's</b> early plays. It is his shortest and one of his most farcical comedies, with a major \
     part of the humour coming from slapstick and mistaken identity, in addition to puns and word play.";
/// Of all pages.
pub(crate) const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5b6b7c;--line:#d8dfe6;--paper:#fff;--ground:#f4f6f8;--accent:#2f6f4f}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b6;--line:#33404d;--paper:#1a222b;--ground:#11171d;--accent:#6fbf95}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
header{display:flex;justify-content:space-between;align-items:center;gap:1rem;padding:.8rem 1.5rem;background:var(--paper);border-bottom:1px solid var(--line)}
header b{color:var(--accent)}main{max-width:60rem;margin:2rem auto;padding:0 1.5rem}h1{text-align:center;margin:0 0 .5rem}
.about{color:var(--soft);max-width:46rem;margin:0 auto 2rem;text-align:center}.two{display:grid;grid-template-columns:1fr 1.4fr;gap:1.5rem}
@media(max-width:44rem){.two{grid-template-columns:1fr}}section{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:1.2rem 1.5rem}
h2{margin:0 0 .8rem;font-size:1.1rem}dl{display:grid;grid-template-columns:auto 1fr;gap:.3rem 1rem;margin:0}dt{color:var(--soft)}dd{margin:0}
blockquote{margin:0 0 1rem;padding:0 0 0 1rem;border-left:3px solid var(--line)}blockquote p{margin:0}small,.by{color:var(--soft)}
.stars{font-size:1.2rem;letter-spacing:.1em}.black{color:var(--ink)}.red{color:#c8102e}.error{color:#b3261e}a{color:var(--accent)}
form{display:flex;gap:.5rem}input,button{font:inherit;padding:.25rem .6rem;border:1px solid var(--line);border-radius:.4rem}";

/// The page at `/`.
pub(crate) fn index() -> String {
    layout(
        None,
        "<h1>Bookinfo</h1><p class=about>A page made by four services, to see a mesh at work: \
         <a href=\"/productpage\">open it</a>.</p>",
    )
}

/// The page of the book, from what its services said.
pub(crate) fn product(
    user: Option<&str>,
    details: &anyhow::Result<Value>,
    reviews: &anyhow::Result<Value>,
) -> String {
    let mut body = format!("<h1>{TITLE}</h1><p class=about>{DESCRIPTION}</p><div class=two>");
    body.push_str("<section><h2>Book details</h2>");
    match details {
        Ok(details) => body.push_str(&book(details)),
        Err(e) => {
            body.push_str(&unavailable("Sorry, product details are currently unavailable for this book.", e));
        }
    }
    body.push_str("</section><section><h2>Book reviews</h2>");
    match reviews {
        Ok(reviews) => body.push_str(&opinions(reviews)),
        Err(e) => {
            body.push_str(&unavailable("Sorry, product reviews are currently unavailable for this book.", e));
        }
    }
    body.push_str("</section></div>");
    layout(Some(user), &body)
}

fn book(details: &Value) -> String {
    let rows = [
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
        ("Author", "author"),
        ("Year", "year"),
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
    ];
    let mut out = String::from("<dl>");
    for (label, key) in rows {
        let _ = write!(out, "<dt>{label}</dt><dd>{}</dd>", text(details.get(key)));
    }
    out + "</dl>"
}

fn opinions(reviews: &Value) -> String {
    let mut out = String::new();
    for review in reviews.get("reviews").and_then(Value::as_array).into_iter().flatten() {
        let _ = write!(out, "<blockquote><p>{}</p>", text(review.get("text")));
        if let Some(rating) = review.get("rating") {
            out.push_str(&stars(rating));
        }
        let _ = write!(out, "<small>— {}</small></blockquote>", text(review.get("reviewer")));
    }
    let _ = write!(out, "<p class=by>Reviews served by: <b>{}</b></p>", text(reviews.get("podname")));
    out
}

fn stars(rating: &Value) -> String {
    let Some(count) = rating.get("stars").and_then(Value::as_u64) else {
        return format!("<p class=error>{}</p>", text(rating.get("error")));
    };
    let color = if rating.get("color").and_then(Value::as_str) == Some("red") { "red" } else { "black" };
    let shown: String = (0..5).map(|n| if n < count { '★' } else { '☆' }).collect();
    format!("<p class=\"stars {color}\" title=\"{count} of 5\">{shown}</p>")
}

fn unavailable(sentence: &str, why: &anyhow::Error) -> String {
    format!(
        "<p class=error><b>Error fetching product data.</b> {sentence}</p><small>{}</small>",
        escaped(&format!("{why:#}"))
    )
}

/// `user` is `None` on pages that have no login.
fn layout(user: Option<Option<&str>>, body: &str) -> String {
    let who = match user {
        None => String::new(),
        Some(Some(user)) => format!("<span>{} · <a href=\"/logout\">sign out</a></span>", escaped(user)),
        Some(None) => {
            "<form method=post action=\"/login\"><input name=username placeholder=\"try jason\" required \
                       pattern=\"[A-Za-z0-9._\\-]{1,64}\"><button>Sign in</button></form>"
                .into()
        }
    };
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Bookinfo</title><style>{STYLE}</style></head>\n<body><header><b>Bookinfo</b>{who}</header><main>{body}</main></body></html>\n"
    )
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(s)) => escaped(s),
        Some(other) => escaped(&other.to_string()),
        None => "–".into(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use serde_json::json;

    use super::*;

    fn reviews(rating: &Value) -> anyhow::Result<Value> {
        Ok(json!({"podname": "reviews-v3-1", "reviews": [{"reviewer": "R", "text": "t", "rating": rating}]}))
    }

    #[test]
    fn shows_which_pod_answered_and_its_stars() {
        let page = product(
            Some("jason"),
            &Ok(json!({"author": "W"})),
            &reviews(&json!({"stars": 4, "color": "red"})),
        );
        for part in ["reviews-v3-1", "★★★★☆", "stars red", "jason"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("unavailable"));
    }

    #[test]
    fn says_what_is_missing_and_why() {
        let page = product(None, &Err(anyhow!("details broke")), &reviews(&json!({"error": "no ratings"})));
        for part in ["details are currently unavailable", "details broke", "no ratings", "Sign in"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("reviews are currently unavailable"));
    }

    #[test]
    fn nothing_of_others_becomes_markup() {
        let hostile = json!({"podname": "<script>", "reviews": [{"text": "<img>", "reviewer": "\"&"}]});
        let page = product(Some("<b>"), &Err(anyhow!("<i>")), &Ok(hostile));
        for part in ["<script>", "<img>", "<i>", "<span><b>"] {
            assert!(!page.contains(part), "{part}");
        }
    }
}
