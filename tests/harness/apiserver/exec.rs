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
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// Says which channel ends.
const END: u8 = 255;

/// What is executed in a pod.
pub enum Exec {
    /// A command, to its end.
    Run(Command),
    /// Whatever this returns.
    Call(Box<dyn FnOnce() -> io::Result<Output> + Send>),
    /// What says nothing and never ends.
    Hang,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Run(_) => "Run",
            Self::Call(_) => "Call",
            Self::Hang => "Hang",
        })
    }
}

type Decide = dyn Fn(&str, &str, &[String], bool) -> Option<Exec> + Send;

type Read = dyn Fn(&Value, &str) -> Option<String> + Send;

/// Reads what containers wrote.
#[derive(Default)]
pub(super) struct Logs(Option<Box<Read>>);

impl Logs {
    pub(super) fn new(read: impl Fn(&Value, &str) -> Option<String> + Send + 'static) -> Self {
        Self(Some(Box::new(read)))
    }
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Logs").field(&self.0.is_some()).finish()
    }
}

/// Returns what a container wrote, where a path asks for it.
pub(super) fn log(state: &State, request: &Request) -> Option<Result<String, Failure>> {
    let rest = request.path.strip_prefix("/api/v1/namespaces/")?;
    let (namespace, rest) = rest.split_once("/pods/")?;
    let pod = rest.strip_suffix("/log")?;
    let read = state.logs.0.as_ref();
    let found = state.get("Pod", namespace, pod);
    let text = read.zip(found);
    let text = text.and_then(|(read, pod)| read(&pod, request.parameter("container")));
    Some(text.ok_or_else(|| status::no_pod(pod)))
}

/// Decides what is executed.
#[derive(Default)]
pub(super) struct Hook(Option<Box<Decide>>);

impl Hook {
    pub(super) fn new(
        decide: impl Fn(&str, &str, &[String], bool) -> Option<Exec> + Send + 'static,
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
    let reads = request.parameter("stdin") == "true";
    let decided = decided.and_then(|decide| decide(namespace, pod, &request.command, reads));
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
    let output = match what {
        Exec::Run(mut command) if request.parameter("stdin") == "true" => {
            fed(&stream, &mut command)?
        }
        Exec::Run(mut command) => command.stdin(Stdio::null()).output()?,
        Exec::Call(call) => call()?,
        Exec::Hang => {
            // Until the client has enough of it.
            let mut rest = [0; 256];
            while stream.read(&mut rest)? > 0 {}
            return Ok(());
        }
    };
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    let told = tell(&mut socket, &output);
    // The client has what it wanted, or went away before.
    told.map_err(io::Error::other)
}

/// Runs a command that reads what the client sends, until that says that nothing follows.
fn fed(stream: &TcpStream, command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take();
    // It also answers pings, and nothing else is sent until the command has ended.
    let mut socket = WebSocket::from_raw_socket(stream.try_clone()?, Role::Server, None);
    std::thread::spawn(move || {
        while let Ok(message) = socket.read() {
            let Message::Binary(bytes) = message else {
                continue;
            };
            match (bytes.as_ref(), &mut input) {
                // One that reads nothing more has ended, or will.
                ([STDIN, bytes @ ..], Some(pipe)) => drop(pipe.write_all(bytes)),
                ([END, STDIN], _) => input = None,
                _ => {}
            }
        }
    });
    child.wait_with_output()
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
    // What the client still has to say, to its own close; it is somebody else who reads where there is input.
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
