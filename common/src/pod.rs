// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Reading and writing the structs as bytes, in user space.

#![allow(unsafe_code, reason = "bytemuck's traits are promises about layout")]

use bytemuck::{Pod, Zeroable};

use crate::{
    Config, Event, NetAddr, NetPort, Origin, OriginKey, PortKey, Service, ServiceKey, SocketOrigin, Workload,
};

macro_rules! pod {
    ($($name:ident = $bytes:expr;)*) => {$(
        // The fields add up to the size, so that no byte is padding.
        const _: () = assert!(size_of::<$name>() == $bytes);
        // SAFETY: integers and arrays of them only, for which all zero is a value.
        unsafe impl Zeroable for $name {}
        // SAFETY: `repr(C)` or transparent, `Copy`, `'static`, integers and arrays of them only (every bit pattern is
        // valid), and no padding: the sum above is the size.
        unsafe impl Pod for $name {}
    )*};
}

pod! {
    NetAddr = 16;
    NetPort = 2;
    Config = 5 * 8 + 4 * 4;
    Workload = 8 + 2 * 4 + 2 * 16 + 2 * 2 + 2 * crate::EXCLUDED_PORTS + 4;
    ServiceKey = 16 + 2 + 2;
    PortKey = 2 + 2;
    Service = 8;
    Origin = 16 + 2 + 2 + 4 + 5 * 8;
    SocketOrigin = 64 + 16 + 2 + 2 + 4;
    OriginKey = 8 + 16 + 2 + 6;
    Event = 3 * 8 + 16 + 2 + 2 + 3 * 4 + 16;
}
