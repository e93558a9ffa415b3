//! Commands in pods: `exec` over a WebSocket, as the API server passes it on to kubelet (`v5.channel.k8s.io`).

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::query::Request;
use super::state::State;
use super::status::{self, Failure};

/// The newest of the protocols that a client may ask for.
const PROTOCOL: &str = "v5.channel.k8s.io";

/// Bytes of one message, as kubelet cuts what it copies.
const PIECE: usize = 32 * 1024;

/// Channels: the first byte of each message.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// What is executed in a pod.
#[derive(Debug)]
pub enum Exec {
    /// A command, to its end.
    Run(Command),
    /// What says nothing and never ends.
    Hang,
}

type Decide = dyn Fn(&str, &str, &[String]) -> Option<Exec> + Send;

/// Decides what is executed.
#[derive(Default)]
pub(super) struct Hook(Option<Box<Decide>>);

impl Hook {
    pub(super) fn new(
        decide: impl Fn(&str, &str, &[String]) -> Option<Exec> + Send + 'static,
    ) -> Self {
        Self(Some(Box::new(decide)))
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

/// Returns namespace and name of the pod where something is to be executed.
pub(super) fn asked(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/api/v1/namespaces/")?;
    let (namespace, rest) = rest.split_once("/pods/")?;
    Some((namespace, rest.strip_suffix("/exec")?))
}

/// Returns what is to be executed, if the request is one that a real server would carry out.
pub(super) fn answer(
    state: &State,
    namespace: &str,
    pod: &str,
    request: &Request,
) -> Result<Exec, Failure> {
    let name = (namespace.to_owned(), pod.to_owned());
    let pods = state.objects.get("Pod");
    let found = pods.and_then(|pods| pods.get(&name));
    let Some(found) = found else {
        return Err(status::no_pod(pod));
    };
    if state.faults.forbidden.contains("pods/exec") {
        return Err(status::forbidden_exec(pod, namespace));
    }
    let protocols = request.header("sec-websocket-protocol");
    let is_upgrade = request.header("upgrade").eq_ignore_ascii_case("websocket")
        && protocols.split(", ").any(|one| one == PROTOCOL);
    if !is_upgrade {
        return Err(status::canned(400, None, "unable to upgrade: no WebSocket"));
    }
    let container = request.parameter("container");
    let containers = found["spec"]["containers"].as_array();
    let mut containers = containers.into_iter().flatten();
    if !containers.any(|it| it["name"] == container) {
        let why = format!("container {container} is not valid for pod {pod}");
        return Err(status::canned(400, None, &why));
    }
    let decided = state.exec.0.as_ref();
    let decided = decided.and_then(|decide| decide(namespace, pod, &request.command));
    decided.ok_or_else(|| status::canned(500, None, "error dialing backend: no kubelet"))
}

/// Executes, and tells what came of it.
pub(super) fn serve(mut stream: TcpStream, request: &Request, what: Exec) -> io::Result<()> {
    let key = derive_accept_key(request.header("sec-websocket-key").as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut command = match what {
        Exec::Run(command) => command,
        Exec::Hang => {
            // Until the client has enough of it.
            let mut rest = [0; 256];
            while stream.read(&mut rest)? > 0 {}
            return Ok(());
        }
    };
    let output = command.stdin(Stdio::null()).output()?;
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    let told = tell(&mut socket, &output);
    // The client has what it wanted, or went away before.
    told.map_err(io::Error::other)
}

fn tell(socket: &mut WebSocket<TcpStream>, output: &Output) -> Result<(), Error> {
    for (channel, bytes) in [(STDOUT, &output.stdout), (STDERR, &output.stderr)] {
        for piece in bytes.chunks(PIECE) {
            send(socket, channel, piece)?;
        }
    }
    send(socket, STATUS, status(output).to_string().as_bytes())?;
    // As kubelet does; kubectl takes an end without a reason for a failure.
    socket.close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))?;
    // What the client still has to say, to its own close.
    while socket.read().is_ok() {}
    Ok(())
}

fn send(socket: &mut WebSocket<TcpStream>, channel: u8, bytes: &[u8]) -> Result<(), Error> {
    let message: Vec<u8> = std::iter::once(channel)
        .chain(bytes.iter().copied())
        .collect();
    socket.send(Message::binary(message))
}

/// Returns how it ended, as the last message has it.
fn status(output: &Output) -> Value {
    if output.status.success() {
        return json!({"metadata": {}, "status": "Success"});
    }
    let code = output.status.code().unwrap_or(137);
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: error executing command, exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}
