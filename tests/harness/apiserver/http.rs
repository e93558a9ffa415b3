//! HTTP/1.1, as far as a test needs it: to say exactly which bytes go out, and when.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::exec::{self, Exec};
use super::faults::{Chunks, Faults};
use super::place::Place;
use super::query::Request;
use super::rights::{self, Account};
use super::state::{Asked, State};
use super::status::{self, Body, Failure};
use super::watch::Watch;
use super::{Shared, discovery, list, openapi, write};

/// Bytes of a request's head. Whoever sends more is not one of ours.
const HEAD: u64 = 64 * 1024;

const JSON: &str = "application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What a request leads to.
enum Answer {
    Json(Value),
    Created(Value),
    /// Kinds, with what tells whether they are others.
    Kinds(Value, String),
    Same(String),
    Text(String),
    Watch(Box<Watch>),
    Exec(Exec),
}

/// Serves a connection until its end.
pub(super) fn serve(shared: &Shared, stream: TcpStream, epoch: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = Stream::new(stream);
    while let Some(request) = read(&mut reader)? {
        let (answer, faults) =
            shared.change(|state| (noted(state, &request, epoch), state.faults.clone()));
        stream.faults = faults;
        match answer {
            Err(failure) => stream.fail(&failure)?,
            Ok(Answer::Json(body)) => stream.whole("200 OK", JSON, "", &body.to_string())?,
            Ok(Answer::Created(body)) => {
                stream.whole("201 Created", JSON, "", &body.to_string())?;
            }
            Ok(Answer::Text(body)) => {
                stream.whole("200 OK", "text/plain; charset=utf-8", "", &body)?
            }
            Ok(Answer::Kinds(body, tag)) => {
                let tag = format!("Etag: {tag}\r\nVary: Accept\r\n");
                stream.whole("200 OK", DISCOVERY, &tag, &body.to_string())?;
            }
            Ok(Answer::Same(tag)) => {
                let head =
                    format!("HTTP/1.1 304 Not Modified\r\nEtag: {tag}\r\nVary: Accept\r\n\r\n");
                stream.stream.write_all(head.as_bytes())?;
            }
            Ok(Answer::Exec(what)) => return exec::serve(stream.stream, &request, what),
            Ok(Answer::Watch(watch)) => {
                stream.begin()?;
                shared.change(|state| state.watches += 1);
                let told = watch.tell(shared, &request, &mut stream, epoch);
                shared.change(|state| state.watches -= 1);
                if told.is_err() {
                    stream.stream.shutdown(Shutdown::Both)?;
                    return told;
                }
                stream.end()?;
            }
        }
    }
    Ok(())
}

/// Returns the next request.
fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.by_ref().take(HEAD).read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let Some(mut request) = Request::read(head.trim_end()) else {
        return Ok(None);
    };
    let length = request.header("content-length").parse().unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}

/// Answers, and notes what came of the request.
fn noted(state: &mut State, request: &Request, epoch: u64) -> Result<Answer, Failure> {
    let user = rights::account(state, request).map(|account| account.user.clone());
    let answer = answer(state, request, epoch);
    let code = match &answer {
        Ok(Answer::Same(_)) => 304,
        Ok(Answer::Created(_)) => 201,
        Ok(Answer::Exec(_)) => 101,
        Ok(Answer::Json(_) | Answer::Kinds(..) | Answer::Text(_) | Answer::Watch(_)) => 200,
        Err(failure) => failure.code,
    };
    state.asked.push(Asked {
        method: request.method.clone(),
        path: request.path.clone(),
        user: user.unwrap_or_default(),
        code,
    });
    answer
}

fn answer(state: &mut State, request: &Request, epoch: u64) -> Result<Answer, Failure> {
    let query: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    state
        .requests
        .push(format!("{}?{}", request.path, query.join("&")));
    if state.epoch != epoch {
        return Err(status::canned(503, None, "the server goes away"));
    }
    if !state.faults.answers.is_empty() {
        let canned = state.faults.answers.remove(0);
        return Err(status::canned(
            canned.code,
            canned.retry_after,
            &canned.body,
        ));
    }
    let account = rights::account(state, request).cloned();
    let account = account.filter(|_| !state.faults.unauthorized);
    let account = account.ok_or_else(status::unauthorized)?;
    if request.path == "/readyz" {
        return Ok(Answer::Text("ok".to_owned()));
    }
    if request.path == "/version" {
        return Ok(Answer::Json(
            json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2"}),
        ));
    }
    if ["/api", "/apis"].contains(&request.path.as_str()) {
        let kinds = discovery::groups(&state.kinds, request.path == "/api");
        let mut hasher = DefaultHasher::new();
        kinds.to_string().hash(&mut hasher);
        let tag = format!("\"{:016X}\"", hasher.finish());
        return Ok(match request.header("if-none-match") == tag {
            true => Answer::Same(tag),
            false => Answer::Kinds(kinds, tag),
        });
    }
    if let Some(found) = openapi::answer(&state.kinds, &request.path) {
        return Ok(Answer::Json(found));
    }
    if let Some(log) = exec::log(state, request) {
        return log.map(Answer::Text);
    }
    if let Some((namespace, pod)) = exec::asked(&request.path) {
        return exec::answer(state, namespace, pod, request).map(Answer::Exec);
    }
    objects(state, &account, request)
}

/// Answers what is about objects.
fn objects(state: &mut State, account: &Account, request: &Request) -> Result<Answer, Failure> {
    let place = Place::of(&state.kinds, &request.path).ok_or_else(status::not_found)?;
    if place.subresource.is_some() && state.faults.without_status.contains(&place.kind.resource) {
        return Err(status::not_found());
    }
    let verb = rights::verb(&place, request).ok_or_else(status::not_allowed)?;
    if !state.faults.allows(verb, &place) || !account.may(&place, verb) {
        return Err(status::forbidden(&place, &account.user, verb));
    }
    match verb {
        "watch" => Ok(Answer::Watch(Box::new(Watch::new(state, &place, request)?))),
        "list" => {
            let list = list::list(state, &place, request)?;
            let is_followed = list["metadata"]["continue"]
                .as_str()
                .is_some_and(|next| !next.is_empty());
            if is_followed && state.faults.compacts_after_pages > 0 {
                state.faults.compacts_after_pages -= 1;
                state.compact();
            }
            Ok(Answer::Json(list))
        }
        "get" => list::get(state, &place, request).map(Answer::Json),
        "create" => write::write(state, &place, request).map(Answer::Created),
        _ => write::write(state, &place, request).map(Answer::Json),
    }
}

/// The way back to a client.
#[derive(Debug)]
pub(super) struct Stream {
    stream: TcpStream,
    faults: Faults,
    /// Bytes of a body that may still be sent.
    left: Option<usize>,
    /// What is to go out with the next chunk.
    held: Vec<u8>,
}

impl Stream {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            faults: Faults::default(),
            left: None,
            held: Vec::new(),
        }
    }

    fn whole(&mut self, code: &str, sort: &str, more: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let date = self.date();
        let head = format!(
            "HTTP/1.1 {code}\r\nCache-Control: no-cache, private\r\nContent-Type: {sort}\r\n{more}{date}Content-Length: {length}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body.as_bytes())
    }

    /// Returns the server's time.
    fn date(&self) -> String {
        let ahead = Duration::from_secs(self.faults.clock.unsigned_abs());
        let now = match self.faults.clock < 0 {
            true => SystemTime::now() - ahead,
            false => SystemTime::now() + ahead,
        };
        format!("Date: {}\r\n", httpdate::fmt_http_date(now))
    }

    fn fail(&mut self, failure: &Failure) -> io::Result<()> {
        let phrase = match failure.code {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            410 => "Gone",
            415 => "Unsupported Media Type",
            422 => "Unprocessable Entity",
            429 => "Too Many Requests",
            500 => "Internal Server Error",
            504 => "Gateway Timeout",
            _ => "Failure",
        };
        let code = format!("{} {phrase}", failure.code);
        let after = failure.retry_after;
        let after = after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
        match &failure.body {
            Body::Status(status) => self.whole(&code, JSON, &after, &(status.to_string() + "\n")),
            Body::Text(text) => self.whole(&code, "text/plain; charset=utf-8", &after, text),
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        self.left = self.faults.cut_after;
        self.held.clear();
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: no-cache, private\r\nContent-Type: {JSON}\r\n{}Transfer-Encoding: chunked\r\n\r\n",
            self.date()
        );
        self.stream.write_all(head.as_bytes())?;
        if let Some(noise) = self.faults.noise.clone() {
            self.held.extend(noise.bytes().chain([b'\n']));
            self.flush()?;
        }
        Ok(())
    }

    /// Sends a line of a watch.
    pub(super) fn line(&mut self, line: &Value) -> io::Result<()> {
        let text = line.to_string();
        self.held.extend(text.bytes().chain([b'\n']));
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        match self.faults.chunks {
            Chunks::Whole => self.chunk(&held),
            Chunks::Small(size, pause) => held.chunks(size).try_for_each(|part| {
                self.chunk(part)?;
                // A slow network, not a wait for anything.
                crate::wait::pause(pause);
                Ok(())
            }),
        }
    }

    fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fitting = self.left.map_or(bytes.len(), |left| left.min(bytes.len()));
        let head = format!("{:x}\r\n", bytes.len());
        let mut chunk = head.into_bytes();
        chunk.extend_from_slice(&bytes[..fitting]);
        if fitting < bytes.len() {
            // Half a chunk, then nothing.
            self.stream.write_all(&chunk)?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.left = self.left.map(|left| left - fitting);
        chunk.extend_from_slice(b"\r\n");
        self.stream.write_all(&chunk)
    }

    fn end(&mut self) -> io::Result<()> {
        self.stream.write_all(b"0\r\n\r\n")
    }
}
