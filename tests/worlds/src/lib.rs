//! Made-up meshes, the same each time: [`scale`] makes large ones of a given size, for measurements, and [`cluster`] the like as
//! an API server sends it; [`random`] small ones in which everything is possible, with requests to match, for properties that have
//! to hold for any.
#![expect(clippy::panic, reason = "used by tests and benchmarks only")]

pub mod agreement;
pub mod chance;
pub mod cluster;
pub mod random;
pub mod scale;
