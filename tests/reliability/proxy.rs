//! The lab's Docker at a TCP address.
//!
//! kindlift asks a Docker at a local socket through its API; one that is elsewhere it reaches by
//! the `docker` command, of which there is then a process that can die.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use crate::lab;

/// Listens until the tests end. Returns the address for `DOCKER_HOST`.
pub fn start() -> String {
    let socket = lab::var("DOCKER_HOST").trim_start_matches("unix://");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            // A client that is gone again, or a Docker that is down, is for the test to notice.
            let _ = client.and_then(|client| join(&client, &UnixStream::connect(socket)?));
        }
    });
    format!("tcp://{address}")
}

/// Copies each way, and passes on that a side has said all.
fn join(client: &TcpStream, docker: &UnixStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, docker.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (docker.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    Ok(())
}
