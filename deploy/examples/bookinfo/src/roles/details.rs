//! `details`: facts about a book.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::reply::{self, Reply};
use crate::roles::id_after;
use crate::server::Role;

/// The service.
pub(crate) struct Details;

impl Role for Details {
    async fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> Reply {
        let path = request.uri().path();
        if path == "/health" {
            return reply::json(StatusCode::OK, &json!({"status": "Details is healthy"}));
        }
        match id_after(path, "/details/") {
            Some(id) => reply::json(
                StatusCode::OK,
                &json!({
                    "id": id, "author": "William Shakespeare", "year": 1595, "type": "paperback", "pages": 200,
                    "publisher": "PublisherA", "language": "English", "ISBN-10": "1234567890", "ISBN-13": "123-1234567890",
                }),
            ),
            None => reply::not_found(),
        }
    }
}
