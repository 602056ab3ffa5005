//! Programs in nodes under Docker, by Docker's API: the `docker` command takes longer to start than
//! most of what the tests ask takes to answer, and they ask thousands of times.

use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt;

use crate::run::{DEADLINE, Run};

/// Runs a program in a container to its end, as `docker exec` would: what cannot be started has
/// exit code 1 and Docker's words on stderr.
#[track_caller]
pub fn exec(socket: &str, container: &str, args: &[&str]) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let run = runtime.block_on(async {
        let work = to_its_end(socket, container, args);
        tokio::time::timeout(DEADLINE, work).await
    });
    match run {
        Ok(Ok(run)) => run,
        Ok(Err(Error::DockerResponseServerError { message, .. })) => Run {
            code: 1,
            stdout: String::new(),
            stderr: message,
        },
        Ok(Err(e)) => panic!("{args:?} in {container}: {e}"),
        Err(_) => panic!(
            "{args:?} in {container} has not ended within {} s",
            DEADLINE.as_secs()
        ),
    }
}

async fn to_its_end(socket: &str, container: &str, args: &[&str]) -> Result<Run, Error> {
    let docker =
        Docker::connect_with_unix(socket, DEADLINE.as_secs(), bollard::API_DEFAULT_VERSION)?
            .negotiate_version()
            .await?;
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
