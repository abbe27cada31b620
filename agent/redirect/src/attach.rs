//! Loading the programs and attaching them to the cgroup.
//!
//! The connect programs come first. When the agent dies, the kernel closes its descriptors from the lowest: so the
//! programs that redirect go before the one that hands origins over, and long before the listeners. That they are active
//! before the rest costs nothing, as they touch nothing until the first config is written.
//!
//! Links are `Single` in aya's words, which for links means "beside other links" (its `AllowMultiple` is EINVAL).

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, ProgramError};

use crate::cgroup::AttachPoint;
use crate::error::{BoxedError, Error};

/// In the order in which they are attached.
pub(crate) const PROGRAMS: [&str; 7] = [
    "undermesh_connect4",
    "undermesh_connect6",
    "undermesh_sockops",
    "undermesh_getpeername4",
    "undermesh_getpeername6",
    "undermesh_getsockname4",
    "undermesh_getsockname6",
];

/// An attached program. Dropping it detaches.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) program: &'static str,
    pub(crate) link: FdLink,
}

/// Loads and attaches every program; on an error, what was attached is detached again.
pub(crate) fn attach(object: &mut Ebpf, point: &AttachPoint) -> Result<Vec<Attached>, Error> {
    for name in PROGRAMS {
        load(program(object, name)?)
            .map_err(|source| Error::ProgramRejected { program: name, source: Box::new(source) })?;
    }
    PROGRAMS
        .into_iter()
        .map(|name| {
            let link = link(program(object, name)?, point).map_err(|source| Error::AttachFailed {
                program: name,
                cgroup: point.path.clone(),
                source,
            })?;
            Ok(Attached { program: name, link })
        })
        .collect()
}

fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Error> {
    object.program_mut(name).ok_or(Error::NotInObject { what: "program", name })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SockOps(program) => program.load(),
        program => <&mut CgroupSockAddr>::try_from(program)?.load(),
    }
}

fn link(program: &mut Program, point: &AttachPoint) -> Result<FdLink, BoxedError> {
    let cgroup = &point.directory;
    match program {
        Program::SockOps(program) => {
            let id = program.attach(cgroup, CgroupAttachMode::Single)?;
            Ok(program.take_link(id)?.try_into()?)
        }
        program => {
            let program = <&mut CgroupSockAddr>::try_from(program)?;
            let id = program.attach(cgroup, CgroupAttachMode::Single)?;
            Ok(program.take_link(id)?.try_into()?)
        }
    }
}
