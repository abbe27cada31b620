//! `reviews`: what readers said. Its three versions differ in the stars, which is how one sees a route at work.

use std::net::SocketAddr;

use clap::ValueEnum;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::call::Service;
use crate::headers::propagated;
use crate::reply::{self, Reply};
use crate::roles::id_after;
use crate::server::Role;

/// Which of Bookinfo's three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// Without stars.
    V1,
    /// Black stars.
    V2,
    /// Red stars.
    V3,
}

impl Version {
    fn color(self) -> Option<&'static str> {
        match self {
            Self::V1 => None,
            Self::V2 => Some("black"),
            Self::V3 => Some("red"),
        }
    }
}

const TEXTS: [(&str, &str); 2] = [
    ("Reviewer1", "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

/// The service.
pub(crate) struct Reviews {
    version: Version,
    pod: String,
    ratings: Service,
}

impl Reviews {
    /// This version of it, in the pod of that name.
    pub(crate) fn new(version: Version, pod: String, ratings: Service) -> Self {
        Self { version, pod, ratings }
    }

    fn body(&self, id: u32, stars: Option<&Value>) -> Value {
        let reviews: Vec<Value> = TEXTS
            .iter()
            .map(|(reviewer, text)| {
                let mut review = json!({"reviewer": reviewer, "text": text});
                if let (Some(color), Some(slot)) = (self.version.color(), review.as_object_mut()) {
                    let stars = stars.and_then(|s| s.get("ratings")?.get(reviewer));
                    let rating = match stars {
                        Some(stars) => json!({"stars": stars, "color": color}),
                        None => json!({"error": "Ratings service is currently unavailable"}),
                    };
                    slot.insert("rating".into(), rating);
                }
                review
            })
            .collect();
        // Bookinfo has `id` as a string here and as a number elsewhere.
        json!({"id": id.to_string(), "podname": self.pod, "clustername": "null", "reviews": reviews})
    }
}

impl Role for Reviews {
    async fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> Reply {
        let path = request.uri().path();
        if path == "/health" {
            return reply::json(StatusCode::OK, &json!({"status": "Reviews is healthy"}));
        }
        let Some(id) = id_after(path, "/reviews/") else { return reply::not_found() };
        let stars = match self.version.color() {
            Some(_) => {
                let answer =
                    self.ratings.json(&format!("/ratings/{id}"), &propagated(request.headers())).await;
                answer.inspect_err(|e| eprintln!("{e:#}")).ok()
            }
            None => None,
        };
        reply::json(StatusCode::OK, &self.body(id, stars.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_differ_in_their_stars() {
        let stars = json!({"ratings": {"Reviewer1": 5, "Reviewer2": 4}});
        for (version, want) in [
            (Version::V1, None),
            (Version::V2, Some(json!({"stars": 5, "color": "black"}))),
            (Version::V3, Some(json!({"stars": 5, "color": "red"}))),
        ] {
            let body = Reviews::new(version, "pod".into(), Service::new("ratings:9080", String::new()))
                .body(0, Some(&stars));
            assert_eq!(body.pointer("/reviews/0/rating"), want.as_ref(), "{version:?}");
        }
    }

    #[test]
    fn missing_ratings_are_said_where_there_would_be_stars_and_only_there() {
        let body = |version| {
            Reviews::new(version, "pod".into(), Service::new("ratings:9080", String::new())).body(0, None)
        };
        assert!(body(Version::V2).pointer("/reviews/1/rating/error").is_some());
        assert!(body(Version::V1).pointer("/reviews/1/rating").is_none());
    }
}
