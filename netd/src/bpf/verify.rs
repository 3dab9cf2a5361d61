//! What the verifier of the running kernel says of the programs, without any of them being attached or pinned.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError, ProgramInfo},
};
use serde::Serialize;

use super::{OBJECT, full, refusal};

/// A program as a kernel takes it.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Its name in the object.
    pub program: String,
    /// Instructions that the verifier has looked at, over all ways through the program: the kernel refuses more than a million. `None`:
    /// it does not tell, or the program is refused.
    pub verified: Option<u32>,
    /// Bytes of the program as the kernel has rewritten it.
    pub translated_bytes: Option<u32>,
    /// Bytes of machine code.
    pub jitted_bytes: Option<u32>,
    /// Why the kernel refuses it: the verifier's last words.
    pub refusal: Option<String>,
}

/// Loads each program, and lets it go.
///
/// # Errors
/// The maps cannot be made. A program that is refused is no error, but has a [`Verified::refusal`].
pub fn verify() -> Result<Vec<Verified>> {
    let mut object = EbpfLoader::new()
        .load(OBJECT)
        .map_err(|error| anyhow!("loading the eBPF object: {}", full(&error)))?;
    let mut all: Vec<Verified> = names(&object)
        .into_iter()
        .map(|name| {
            let program = object.program_mut(&name).with_context(|| format!("no program {name}"))?;
            let loaded = load(program).and_then(|()| program.info());
            Ok(entry(name, loaded))
        })
        .collect::<Result<_>>()?;
    all.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(all)
}

fn names(object: &Ebpf) -> Vec<String> {
    object.programs().map(|(name, _)| name.to_owned()).collect()
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn entry(program: String, loaded: Result<ProgramInfo, ProgramError>) -> Verified {
    match loaded {
        Ok(info) => Verified {
            program,
            verified: info.verified_instruction_count(),
            translated_bytes: info.size_translated(),
            jitted_bytes: Some(info.size_jitted()),
            refusal: None,
        },
        Err(error) => {
            let refusal = Some(refusal(&error));
            Verified { program, verified: None, translated_bytes: None, jitted_bytes: None, refusal }
        }
    }
}
