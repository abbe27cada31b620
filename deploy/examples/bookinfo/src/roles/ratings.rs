//! `ratings`: the stars that belong to the reviews.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::reply::{self, Reply};
use crate::roles::id_after;
use crate::server::Role;

/// The service.
pub(crate) struct Ratings;

impl Role for Ratings {
    async fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> Reply {
        let path = request.uri().path();
        if path == "/health" {
            return reply::json(StatusCode::OK, &json!({"status": "Ratings is healthy"}));
        }
        match id_after(path, "/ratings/") {
            Some(id) => {
                reply::json(StatusCode::OK, &json!({"id": id, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}))
            }
            None => reply::not_found(),
        }
    }
}
