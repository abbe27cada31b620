//! What each service answers.

pub(crate) mod details;
pub(crate) mod echo;
pub(crate) mod page;
pub(crate) mod productpage;
pub(crate) mod ratings;
pub(crate) mod reviews;
pub(crate) mod service2;
pub(crate) mod session;

/// The number after `prefix` in a path such as `/reviews/0`, and nothing after it.
pub(crate) fn id_after(path: &str, prefix: &str) -> Option<u32> {
    path.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::id_after;

    #[test]
    fn ids_are_numbers_and_the_end_of_the_path() {
        for (path, want) in [
            ("/reviews/0", Some(0)),
            ("/reviews/17", Some(17)),
            ("/reviews/", None),
            ("/reviews/x", None),
            ("/reviews/0/more", None),
            ("/ratings/0", None),
        ] {
            assert_eq!(id_after(path, "/reviews/"), want, "{path}");
        }
    }
}
