//! The client against the real server.

use super::*;
use crate::admin::tests::Served;
use crate::admin::types::{Flows, FollowLine, Redirect, RedirectRequest, Status};

fn client(served: &Served) -> Client {
    Client::new(served.socket.clone())
}

#[tokio::test]
async fn answers_and_refusals_arrive() {
    let served = Served::start();
    let client = client(&served);
    let status: Status = client.get("/v1/status").await.unwrap();
    assert_eq!(status.agent.node, "worker-1");
    served.push(1);
    let flows: Flows = client.get("/v1/flows?limit=10").await.unwrap();
    assert_eq!(flows.flows.len(), 2);
    let request = RedirectRequest { allowed: false };
    let answer: Redirect = client.post("/v1/redirect", &request).await.unwrap();
    assert!(!answer.allowed);

    let error = client.get::<Flows>("/v1/flows?path=up").await.unwrap_err();
    assert!(
        error.to_string().starts_with("path: `up` is none of"),
        "{error}"
    );
    assert_eq!(exit::report(Err(error)), Exit::Bad);
    let error = client.get::<Flows>("/v1/status").await.unwrap_err();
    assert!(matches!(error, CtlError::NotUnderstood(_)), "{error}");
}

#[tokio::test]
async fn a_stream_ends_with_the_agent() {
    let served = Served::start();
    let mut stream = client(&served)
        .stream("/v1/flows?follow=true")
        .await
        .unwrap();
    assert!(matches!(stream.next().await, Ok(FollowLine::Start { .. })));
    served.push(7);
    assert!(matches!(stream.next().await, Ok(FollowLine::Flow(flow)) if flow.id == 7));
    served.shutdown.send_replace(true);
    assert!(matches!(stream.next().await, Ok(FollowLine::End { .. })));
}

#[tokio::test]
async fn an_agent_that_is_killed_in_mid_stream_is_told() {
    let served = Served::start();
    let mut stream = client(&served)
        .stream("/v1/flows?follow=true")
        .await
        .unwrap();
    assert!(matches!(stream.next().await, Ok(FollowLine::Start { .. })));
    // As `kill -9` would: every socket closes, nothing is said.
    served.running.abort();
    let error = stream.next().await.unwrap_err();
    assert!(matches!(error, CtlError::Gone), "{error}");
    assert_eq!(exit::report(Err(error)), Exit::Unreachable);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_told_with_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let nobody = Client::new(socket.clone());
    let error = nobody.get::<Status>("/v1/status").await.unwrap_err();
    assert!(error.to_string().contains("no agent runs here"), "{error}");
    assert_eq!(exit::report(Err(error)), Exit::Unreachable);

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = nobody.get::<Status>("/v1/status").await.unwrap_err();
    assert!(
        error.to_string().contains("that made this socket is gone"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = Client::new(socket)
        .get::<Status>("/v1/status")
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("did not answer in time"),
        "{error}"
    );
    assert_eq!(exit::report(Err(error)), Exit::Unreachable);
}

#[test]
fn a_broken_pipe_is_no_failure() {
    let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert_eq!(exit::report(Err(broken.into())), Exit::Fine);
    let other = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert_eq!(exit::report(Err(other.into())), Exit::Bad);
}
