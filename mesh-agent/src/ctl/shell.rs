//! Completions and manual pages, made from the definitions of the commands.

#![forbid(unsafe_code)]

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::print;

pub(super) fn completions(shell: Shell) -> Result<Exit, CtlError> {
    let mut command = Cli::command();
    // Into memory: the generator panics where a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "node-agent", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Fine)
}

pub(super) fn man(dir: Option<&Path>) -> Result<Exit, CtlError> {
    if let Some(dir) = dir {
        std::fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)?;
        return Ok(Exit::Fine);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Fine)
}
