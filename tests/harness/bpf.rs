//! What is loaded in the kernel, asked of the kernel.

use anyhow::Context as _;
use aya::programs::loaded_programs;

/// Those of the programs `ids` that the kernel still holds. A killed agent's are released a moment after its end, when the
/// kernel closes its files and a grace period has passed.
pub fn still_loaded(ids: &[u32]) -> anyhow::Result<Vec<u32>> {
    let loaded: Vec<_> = loaded_programs().collect::<Result<_, _>>().context("cannot list BPF programs")?;
    Ok(loaded.iter().map(|p| p.id()).filter(|id| ids.contains(id)).collect())
}
