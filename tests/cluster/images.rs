//! Brings images to where nodes find them.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::options::Options;

/// Brings both images to the nodes, by the command or the registry that was given. Without either they are there already.
pub(crate) fn bring(options: &Options) -> Result<()> {
    let images = [
        (&options.agent_archive, &options.agent_image),
        (&options.peer_archive, &options.peer_image),
    ];
    for (archive, name) in images {
        let Some(archive) = archive else { continue };
        let image = options.image(name);
        match (&options.image_import, &options.registry) {
            (Some(import), _) => {
                println!("importing {image}");
                let file = File::open(archive);
                let file =
                    file.with_context(|| format!("failed to open `{}`", archive.display()))?;
                shell(import, archive, &image, file.into())?;
            }
            (None, Some(_)) => {
                println!("pushing {image}");
                shell(&options.image_push, archive, &image, Stdio::null())?;
            }
            (None, None) => {
                println!("taking {image} to be on the nodes: no --image-import, no --registry")
            }
        }
    }
    Ok(())
}

fn shell(line: &str, archive: &Path, image: &str, input: Stdio) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-ec", line]).stdin(input);
    command.env("ARCHIVE", archive).env("IMAGE", image);
    let status = command.status().context("failed to start `sh`")?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_go_to_the_command_that_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, copy) = (dir.path().join("a.tar"), dir.path().join("copy"));
        std::fs::write(&archive, "an archive").unwrap();
        let mut options = Options {
            agent_archive: Some(archive.clone()),
            agent_image: "underpass.dev/node-agent:1".to_owned(),
            image_import: Some(format!("cat > {}", copy.display())),
            ..Options::default()
        };
        bring(&options).unwrap();
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), "an archive");
        options.image_import = None;
        options.registry = Some("r.example".to_owned());
        options.image_push = format!("echo \"$ARCHIVE $IMAGE\" > {}", copy.display());
        bring(&options).unwrap();
        let said = std::fs::read_to_string(&copy).unwrap();
        assert_eq!(
            said,
            format!("{} r.example/node-agent:1\n", archive.display())
        );
        options.image_push = "false".to_owned();
        bring(&options).unwrap_err();
    }
}
