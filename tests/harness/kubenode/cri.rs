//! What a kubelet says to its container runtime: CRI `runtime.v1` over a unix socket, as far as it is said here.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

pub(super) use super::messages::*;

/// How long a call may take: a sandbox is a network and a program, on a busy machine; ending a container takes what it is given.
const CALL: Duration = Duration::from_secs(90);

/// A container runtime.
#[derive(Debug)]
pub(super) struct Cri {
    runtime: Runtime,
    channel: Channel,
}

impl Cri {
    /// Returns the runtime that listens at a socket. It need not listen yet.
    pub(super) fn new(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let _inside = runtime.enter();
        let channel = endpoint.timeout(CALL).connect_lazy();
        Ok(Self { runtime, channel })
    }

    fn call<A: Message + Default + 'static>(
        &self,
        method: &'static str,
        request: impl Message + 'static,
    ) -> Result<A> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let path = PathAndQuery::from_static(method);
        let answer = self.runtime.block_on(async {
            grpc.ready().await?;
            let answer = grpc.unary(tonic::Request::new(request), path, ProstCodec::default());
            anyhow::Ok(answer.await?)
        });
        Ok(answer.context(method)?.into_inner())
    }

    /// Returns name and version of the runtime.
    pub(super) fn version(&self) -> Result<VersionResponse> {
        self.call("/runtime.v1.RuntimeService/Version", VersionRequest {})
    }

    /// Returns whether the runtime has its network.
    pub(super) fn is_ready(&self) -> Result<bool> {
        let status: StatusResponse =
            self.call("/runtime.v1.RuntimeService/Status", StatusRequest {})?;
        let conditions = status.status.unwrap_or_default().conditions;
        Ok(!conditions.is_empty() && conditions.iter().all(|it| it.status))
    }

    /// Returns whether an image is there.
    pub(super) fn has_image(&self, name: &str) -> Result<bool> {
        let image = Some(ImageSpec {
            image: name.to_owned(),
        });
        let status: ImageStatusResponse = self.call(
            "/runtime.v1.ImageService/ImageStatus",
            ImageStatusRequest { image },
        )?;
        Ok(status.image.is_some())
    }

    pub(super) fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let request = RunPodSandboxRequest {
            config: Some(config),
        };
        let answer: RunPodSandboxResponse =
            self.call("/runtime.v1.RuntimeService/RunPodSandbox", request)?;
        Ok(answer.pod_sandbox_id)
    }

    /// Returns the addresses of a sandbox that has a network of its own.
    pub(super) fn addresses(&self, sandbox: &str) -> Result<Vec<String>> {
        let request = OfSandbox {
            pod_sandbox_id: sandbox.to_owned(),
        };
        let answer: PodSandboxStatusResponse =
            self.call("/runtime.v1.RuntimeService/PodSandboxStatus", request)?;
        let network = answer.status.unwrap_or_default().network;
        let network = network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|it| it.ip);
        let all = std::iter::once(network.ip).chain(more);
        Ok(all.filter(|ip| !ip.is_empty()).collect())
    }

    /// Ends a sandbox with everything in it, and removes it.
    pub(super) fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        let of = || OfSandbox {
            pod_sandbox_id: sandbox.to_owned(),
        };
        let _: Empty = self.call("/runtime.v1.RuntimeService/StopPodSandbox", of())?;
        let _: Empty = self.call("/runtime.v1.RuntimeService/RemovePodSandbox", of())?;
        Ok(())
    }

    /// Makes a container and starts it.
    pub(super) fn run_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        of: PodSandboxConfig,
    ) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(of),
        };
        let made: CreateContainerResponse =
            self.call("/runtime.v1.RuntimeService/CreateContainer", request)?;
        let of = OfContainer {
            container_id: made.container_id.clone(),
        };
        let _: Empty = self.call("/runtime.v1.RuntimeService/StartContainer", of)?;
        Ok(made.container_id)
    }

    pub(super) fn container(&self, id: &str) -> Result<ContainerStatus> {
        let of = OfContainer {
            container_id: id.to_owned(),
        };
        let answer: ContainerStatusResponse =
            self.call("/runtime.v1.RuntimeService/ContainerStatus", of)?;
        answer.status.context("a container without status")
    }

    /// Executes words in a container, to their end.
    pub(super) fn exec(&self, id: &str, words: &[String], seconds: i64) -> Result<Output> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: words.to_vec(),
            timeout: seconds,
        };
        let answer: ExecSyncResponse = self.call("/runtime.v1.RuntimeService/ExecSync", request)?;
        Ok(Output {
            // As wait(2) has it.
            status: ExitStatus::from_raw((answer.exit_code & 0xff) << 8),
            stdout: answer.stdout,
            stderr: answer.stderr,
        })
    }

    /// Asks a container to end, and makes it after so many seconds.
    pub(super) fn stop(&self, id: &str, seconds: i64) -> Result<()> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: seconds,
        };
        let _: Empty = self.call("/runtime.v1.RuntimeService/StopContainer", request)?;
        Ok(())
    }
}
