//! What the tests ask Docker most, by its API: the `docker` command takes longer to start than most of
//! it takes to answer, and they ask thousands of times.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptionsBuilder};
use futures_util::StreamExt;

use crate::run::{DEADLINE, Run};

/// Runs a program in a container to its end, as `docker exec` would: what cannot be started, or
/// is cut off, has exit code 1 and Docker's words on stderr.
#[track_caller]
pub fn exec(socket: &str, container: &str, args: &[&str]) -> Run {
    match in_time(
        &format!("{args:?} in {container}"),
        to_its_end(socket, container, args),
    ) {
        Ok(run) => run,
        Err(e) => Run {
            code: 1,
            stdout: String::new(),
            stderr: match e {
                Error::DockerResponseServerError { message, .. } => message,
                // A node that is killed takes the connection with it.
                e => e.to_string(),
            },
        },
    }
}

/// Returns the names of images, all or those that match a reference with wildcards, as `docker image
/// ls --filter reference=…` would.
#[track_caller]
pub fn image_names(socket: &str, reference: Option<&str>) -> BTreeSet<String> {
    let what = format!("the list of images {}", reference.unwrap_or("of all names"));
    in_time(&what, names(socket, reference)).unwrap_or_else(|e| panic!("{what}: {e}"))
}

async fn names(socket: &str, reference: Option<&str>) -> Result<BTreeSet<String>, Error> {
    let docker = connect(socket).await?;
    let end = Instant::now() + DEADLINE;
    loop {
        let wanted = reference
            .map(|reference| HashMap::from([("reference".to_owned(), vec![reference.to_owned()])]));
        let options = ListImagesOptions {
            filters: wanted,
            ..ListImagesOptions::default()
        };
        match docker.list_images(Some(options)).await {
            Ok(images) => {
                let names = images.into_iter().flat_map(|image| image.repo_tags);
                return Ok(names.filter(|name| !name.contains("<none>")).collect());
            }
            // Docker's containerd store trips over an image that another test removes meanwhile.
            Err(Error::DockerResponseServerError { message, .. })
                if message.contains("content digest") && Instant::now() < end => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes names of images, as `docker image rm --force` would: what cannot be removed is told, and
/// the others go.
pub fn forget(socket: &str, names: &BTreeSet<String>) {
    let what = format!("the removal of {names:?}");
    let removed = in_time(&what, async {
        let docker = connect(socket).await?;
        for name in names {
            let options = RemoveImageOptionsBuilder::default().force(true).build();
            if let Err(e) = docker.remove_image(name, Some(options), None).await {
                eprintln!("the removal of {name}: {e}");
            }
        }
        Ok(())
    });
    if let Err(e) = removed {
        eprintln!("{what}: {e}");
    }
}

#[track_caller]
fn in_time<T>(what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(DEADLINE, work).await })
        .unwrap_or_else(|_| panic!("{what} has not ended within {} s", DEADLINE.as_secs()))
}

async fn connect(socket: &str) -> Result<Docker, Error> {
    Docker::connect_with_unix(socket, DEADLINE.as_secs(), bollard::API_DEFAULT_VERSION)?
        .negotiate_version()
        .await
}

async fn to_its_end(socket: &str, container: &str, args: &[&str]) -> Result<Run, Error> {
    let docker = connect(socket).await?;
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(args.to_vec()),
        ..CreateExecOptions::default()
    };
    let id = docker.create_exec(container, options).await?.id;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&id, None).await? {
        while let Some(piece) = output.next().await {
            match piece? {
                LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
                LogOutput::StdOut { message } | LogOutput::Console { message } => {
                    stdout.extend_from_slice(&message);
                }
                LogOutput::StdIn { .. } => {}
            }
        }
    }
    // Docker notes the end a moment after the output has ended.
    let code = loop {
        let state = docker.inspect_exec(&id).await?;
        if state.running != Some(true) {
            break state.exit_code.unwrap_or(1);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    Ok(Run {
        code: i32::try_from(code).unwrap(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}
