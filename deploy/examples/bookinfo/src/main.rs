//! Stand-ins for Istio's Bookinfo, one role per process: the same ports, paths and JSON, small enough to start forty of
//! them. <https://istio.io/latest/docs/examples/bookinfo/>
//!
//! ```text
//!   client → productpage ┬→ details
//!                        └→ reviews v1 (no stars) · v2 (black) · v3 (red) → ratings
//! ```
//!
//! Besides Bookinfo: `service2` answers with what it was asked, `echo` speaks bare TCP and UDP, and `client` is every kind
//! of caller that a test needs inside a pod, with one JSON line per event.

mod call;
mod client;
mod headers;
mod reply;
mod roles;
mod server;

use std::net::SocketAddr;

use clap::{Parser, Subcommand};

use crate::call::Service;
use crate::roles::{details, echo, productpage, ratings, reviews, service2};

/// Bookinfo's services, and the clients to try them with.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  bookinfo ratings
  bookinfo reviews --version v2 --ratings 127.0.0.1:9080 --listen 127.0.0.1:9081
  bookinfo productpage                 where details, reviews and ratings are names
  bookinfo productpage --details 10.96.0.11:9080 --reviews 10.96.0.12:9080 --ratings 10.96.0.13:9080
  bookinfo client http http://10.96.0.12:9080/reviews/0 --host reviews:9080 --header 'end-user: jason' --count 3"
)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The page; calls details, reviews and (for its API) ratings.
    Productpage {
        #[command(flatten)]
        place: Place,
        /// Where the service `details` is: an address where there is no DNS. Host has the service's name in any case.
        #[arg(long, value_name = "HOST:PORT", default_value = "details:9080")]
        details: String,
        /// Where the service `reviews` is.
        #[arg(long, value_name = "HOST:PORT", default_value = "reviews:9080")]
        reviews: String,
        /// Where the service `ratings` is.
        #[arg(long, value_name = "HOST:PORT", default_value = "ratings:9080")]
        ratings: String,
    },
    /// Facts about a book.
    Details {
        #[command(flatten)]
        place: Place,
    },
    /// What readers said; v2 and v3 call ratings.
    Reviews {
        #[command(flatten)]
        place: Place,
        /// v1 without stars, v2 with black, v3 with red ones.
        #[arg(long, value_enum)]
        version: reviews::Version,
        /// Where the service `ratings` is; v1 has no use for it.
        #[arg(long, value_name = "HOST:PORT", default_value = "ratings:9080")]
        ratings: String,
    },
    /// Stars for each review.
    Ratings {
        #[command(flatten)]
        place: Place,
    },
    /// Answers any request with a JSON description of it.
    Service2 {
        #[command(flatten)]
        place: Place,
    },
    /// Sends back whatever it is sent, over TCP and UDP on one port.
    Echo {
        /// Where to listen.
        #[arg(long, value_name = "IP:PORT", default_value = "[::]:7000")]
        listen: SocketAddr,
        /// Said first on each TCP connection, as SMTP or MySQL do.
        #[arg(long)]
        greeting: Option<String>,
    },
    /// Makes requests and prints one JSON line for each event.
    #[command(subcommand)]
    Client(client::Client),
}

/// What every HTTP role has.
#[derive(Debug, clap::Args)]
struct Place {
    /// Where to listen; 9080, and 8080 for service2, if not given.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// The name of this pod, shown in answers.
    #[arg(long, env = "HOSTNAME", default_value = "unknown")]
    pod: String,
}

impl Place {
    fn listen(&self, port: u16) -> SocketAddr {
        self.listen.unwrap_or_else(|| (std::net::Ipv6Addr::UNSPECIFIED, port).into())
    }
}

/// Bookinfo's port for each of its services.
const PORT: u16 = 9080;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().role {
        Role::Productpage { place, details, reviews, ratings } => {
            let page = productpage::Productpage::new(
                Service::new("details:9080", details),
                Service::new("reviews:9080", reviews),
                Service::new("ratings:9080", ratings),
            );
            server::serve(place.listen(PORT), page).await
        }
        Role::Details { place } => server::serve(place.listen(PORT), details::Details).await,
        Role::Reviews { place, version, ratings } => {
            let ratings = Service::new("ratings:9080", ratings);
            let reviews = reviews::Reviews::new(version, place.pod.clone(), ratings);
            server::serve(place.listen(PORT), reviews).await
        }
        Role::Ratings { place } => server::serve(place.listen(PORT), ratings::Ratings).await,
        Role::Service2 { place } => {
            server::serve(place.listen(8080), service2::Service2 { pod: place.pod.clone() }).await
        }
        Role::Echo { listen, greeting } => echo::serve(listen, greeting).await,
        Role::Client(client) => client.run().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn reviews_have_three_versions() {
        let parse = |version| Arguments::try_parse_from(["bookinfo", "reviews", "--version", version]);
        for version in ["v1", "v2", "v3"] {
            assert!(parse(version).is_ok(), "{version}");
        }
        assert!(parse("v4").is_err());
    }
}
