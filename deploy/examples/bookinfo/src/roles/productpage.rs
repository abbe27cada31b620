//! `productpage`: the page that people open, and Bookinfo's public API.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{HeaderValue, SET_COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::call::Service;
use crate::headers::propagated;
use crate::reply::{self, Reply};
use crate::roles::{id_after, page, session};
use crate::server::Role;

/// A login form is shorter than that.
const LONGEST_FORM: usize = 4096;

/// The service.
pub(crate) struct Productpage {
    details: Service,
    reviews: Service,
    ratings: Service,
}

impl Productpage {
    /// Calling these.
    pub(crate) fn new(details: Service, reviews: Service, ratings: Service) -> Self {
        Self { details, reviews, ratings }
    }

    async fn page(&self, headers: &HeaderMap, user: Option<&str>) -> Reply {
        let details = self.details.json("/details/0", headers).await;
        let mut reviews = self.reviews.json("/reviews/0", headers).await;
        if reviews.is_err() {
            // As Bookinfo does it: a fault in one of two calls goes unseen.
            reviews = self.reviews.json("/reviews/0", headers).await;
        }
        reply::html(StatusCode::OK, page::product(user, &details, &reviews))
    }

    /// Hands a service's answer on as it is; what cannot be reached is 503.
    async fn api(&self, service: &Service, path: &str, headers: &HeaderMap) -> Reply {
        match service.get(path, headers).await {
            Ok((status, body)) => reply::typed(status, "application/json", body),
            Err(e) => reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": format!("{e:#}")})),
        }
    }

    async fn product(&self, rest: &str, headers: &HeaderMap) -> Reply {
        if let Some(id) = id_after(rest, "") {
            return self.api(&self.details, &format!("/details/{id}"), headers).await;
        }
        match rest.split_once('/').map(|(id, of)| (id.parse::<u32>(), of)) {
            Some((Ok(id), "reviews")) => self.api(&self.reviews, &format!("/reviews/{id}"), headers).await,
            Some((Ok(id), "ratings")) => self.api(&self.ratings, &format!("/ratings/{id}"), headers).await,
            _ => reply::not_found(),
        }
    }
}

impl Role for Productpage {
    async fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> Reply {
        let (head, body) = request.into_parts();
        let user = session::user(&head.headers);
        let mut onward = propagated(&head.headers);
        if let Some(name) = user.and_then(|u| HeaderValue::from_str(u).ok()) {
            onward.insert("end-user", name);
        }
        match (&head.method, head.uri.path()) {
            (_, "/health") => reply::html(StatusCode::OK, "Product page is healthy".into()),
            (&Method::GET, "/" | "/index.html") => reply::html(StatusCode::OK, page::index()),
            (&Method::GET, "/productpage") => {
                // Without a login, whoever set the header is the user.
                let header = head.headers.get("end-user").and_then(|v| v.to_str().ok());
                self.page(&onward, user.or(header)).await
            }
            (&Method::GET, "/api/v1/products") => reply::json(StatusCode::OK, &products()),
            (&Method::POST, "/login") => match Limited::new(body, LONGEST_FORM).collect().await {
                Ok(form) => login(&form.to_bytes()),
                Err(_) => bad_form(),
            },
            (&Method::GET, "/logout") => with_cookie(None),
            (&Method::GET, "/static/style.css") => reply::typed(StatusCode::OK, "text/css", page::STYLE),
            (&Method::GET, path) => match path.strip_prefix("/api/v1/products/") {
                Some(rest) => self.product(rest, &onward).await,
                None => reply::not_found(),
            },
            _ => reply::not_found(),
        }
    }
}

fn products() -> Value {
    json!([{ "id": 0, "title": page::TITLE, "descriptionHtml": page::DESCRIPTION }])
}

fn login(form: &Bytes) -> Reply {
    match session::login(form) {
        Some(user) => with_cookie(Some(user)),
        None => bad_form(),
    }
}

fn with_cookie(user: Option<&str>) -> Reply {
    let mut reply = reply::see_other("/productpage");
    if let Ok(cookie) = HeaderValue::from_str(&session::cookie(user)) {
        reply.headers_mut().insert(SET_COOKIE, cookie);
    }
    reply
}

fn bad_form() -> Reply {
    reply::typed(StatusCode::BAD_REQUEST, "text/plain", "username: 1 to 64 letters, digits, dots, dashes\n")
}
