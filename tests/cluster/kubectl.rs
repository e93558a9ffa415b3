//! What is asked of the cluster.

use std::ffi::OsString;
use std::io::{Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use harness::wait_for_some;
use serde_json::Value;

use crate::options::Options;

/// How long one call may take: an apply of a hundred objects takes some seconds, 500 requests in a pod some more.
const CALL: Duration = Duration::from_secs(120);

/// Who applied what.
const MANAGER: &str = "--field-manager=underpass-test";

/// `kubectl`, for one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    flags: Vec<OsString>,
}

impl Kubectl {
    pub(crate) fn new(options: &Options) -> Self {
        let mut flags = Vec::new();
        if let Some(file) = &options.kubeconfig {
            flags.extend(["--kubeconfig".into(), file.into()]);
        }
        if let Some(context) = &options.context {
            flags.extend(["--context".into(), context.into()]);
        }
        Self { flags }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(&self.flags).args(words);
        command
    }

    /// Returns what a call prints.
    ///
    /// # Errors
    /// When it fails, or takes too long; what it complained of is in the error.
    pub(crate) fn run(&self, words: &[&str], input: Option<&str>) -> Result<String> {
        let mut call = Call::start(self.command(words))?;
        if let Some(input) = input {
            call.write(input)?;
        }
        call.stdin = None;
        let what = format!("kubectl {}", words.join(" "));
        call.finish().with_context(|| what)
    }

    /// Returns the server's version.
    pub(crate) fn server_version(&self) -> Result<String> {
        let text = self.run(&["version", "-o", "json"], None);
        let text = text.context("failed to reach the cluster")?;
        let version: Value = serde_json::from_str(&text)?;
        let text = version["serverVersion"]["gitVersion"].as_str();
        text.map(str::to_owned)
            .context("the server says no version")
    }

    /// Returns the name of the context that is used.
    pub(crate) fn context(&self) -> Result<String> {
        Ok(self
            .run(&["config", "current-context"], None)?
            .trim()
            .to_owned())
    }

    /// Applies objects, in this order.
    pub(crate) fn apply(&self, objects: &[Value]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let words = [
            "apply",
            "--server-side",
            "--force-conflicts",
            MANAGER,
            "-f",
            "-",
        ];
        self.run(&words, Some(&stream(objects))).map(drop)
    }

    /// Deletes objects and waits until they are gone. Those that are not there are none to wait for.
    pub(crate) fn delete(&self, objects: &[Value]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let words = [
            "delete",
            "--ignore-not-found",
            "--wait=true",
            "--timeout=110s",
            "-f",
            "-",
        ];
        self.run(&words, Some(&stream(objects))).map(drop)
    }

    /// Returns an object, if it is there.
    pub(crate) fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(
            &[
                "get",
                kind,
                name,
                "--namespace",
                namespace,
                "--ignore-not-found",
                "-o",
                "json",
            ],
            None,
        )?;
        match text.trim() {
            "" => Ok(None),
            text => Ok(Some(serde_json::from_str(text)?)),
        }
    }

    /// Returns the objects of some kinds that bear a label, in all namespaces.
    pub(crate) fn labelled(&self, kinds: &str, label: &str) -> Result<Vec<Value>> {
        let words = [
            "get",
            kinds,
            "--all-namespaces",
            "--selector",
            label,
            "-o",
            "json",
        ];
        let text = self.run(&words, None)?;
        let mut list: Value = serde_json::from_str(&text)?;
        let items = list["items"].take();
        Ok(items.as_array().cloned().unwrap_or_default())
    }

    /// Waits until an object is as it has to be, and returns it.
    pub(crate) fn wait(
        &self,
        what: (&str, &str, &str),
        limit: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let (kind, namespace, name) = what;
        let mut last = Value::Null;
        let waited = wait_for_some(&format!("{kind} {namespace}/{name}"), limit, || {
            // A server that does not answer now may do so the next time.
            last = self
                .get(kind, namespace, name)
                .ok()
                .flatten()
                .unwrap_or_default();
            is_so(&last).then(|| last.clone())
        });
        waited.with_context(|| format!("its status is {}", last["status"]))
    }

    /// Returns what a command in a pod prints.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, words: &[&str]) -> Result<String> {
        let flags = ["exec", "--namespace", namespace, pod, "--"];
        self.run(&[&flags[..], words].concat(), None)
    }

    /// Starts a command in a pod that ends once a line was written to it.
    pub(crate) fn exec_until_told(
        &self,
        namespace: &str,
        pod: &str,
        words: &[&str],
    ) -> Result<Call> {
        let flags = ["exec", "--stdin", "--namespace", namespace, pod, "--"];
        Call::start(self.command(&[&flags[..], words].concat()))
    }
}

/// A call that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Call {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    output: Option<[JoinHandle<String>; 2]>,
}

impl Call {
    fn start(mut command: Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.context("failed to start `kubectl`; is it installed?")?;
        let stdin = child.stdin.take();
        // Each read on a thread, so that neither fills up.
        let output = child
            .stdout
            .take()
            .map(text_of)
            .zip(child.stderr.take().map(text_of));
        Ok(Self {
            child,
            stdin,
            output: output.map(|(out, err)| [out, err]),
        })
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it reads nothing more")?;
        stdin.write_all(text.as_bytes())?;
        stdin.flush().context("failed to write to `kubectl`")
    }

    /// Returns what it printed, once it has ended.
    pub(crate) fn finish(mut self) -> Result<String> {
        let ended = wait_for_some("kubectl to end", CALL, || self.child.try_wait().transpose());
        let status: ExitStatus = ended??;
        let output = self.output.take().context("nothing was read")?;
        let [out, err] = output.map(|reading| reading.join().unwrap_or_default());
        if !status.success() {
            bail!("{status}: {}{}", err.trim(), out.trim());
        }
        Ok(out)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // It has ended already, or nobody wants what it does.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn text_of(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came counts.
        from.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Returns objects as documents: of a `List`, kubectl does not let the server check the fields, and gets all schemas to do it itself.
fn stream(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.join("\n")
}

/// Reads documents of YAML.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    // As kubectl and the agent have it: `y` is a text.
    let options = serde_saphyr::options! { strict_booleans: true };
    let all: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).context("no YAML")?;
    let all: Vec<Value> = all.into_iter().filter(|it| !it.is_null()).collect();
    for object in &all {
        ensure!(object["kind"].is_string(), "a document without kind");
    }
    Ok(all)
}

/// Returns kind, namespace and name.
pub(crate) fn identity(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}

#[cfg(test)]
mod tests {
    use harness::apiserver::{ApiServer, Exec, Kind, objects};
    use harness::machine::has_program;
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_read_one_by_one() {
        let all =
            documents("---\nkind: A\nmetadata: {name: x, namespace: shop}\n---\n---\nkind: B\n")
                .unwrap();
        assert_eq!(all.len(), 2);
        let of = |text: &str| text.to_owned();
        assert_eq!(identity(&all[0]), (of("A"), of("shop"), of("x")));
        assert_eq!(documents("kind: A\nvalue: y").unwrap()[0]["value"], "y");
        documents("metadata: {}").unwrap_err();
    }

    /// Returns a server and what speaks to it; `None` without `kubectl`, which no other test needs.
    fn server() -> Option<(ApiServer, Kubectl, tempfile::TempDir)> {
        if !has_program("kubectl") {
            eprintln!("there is no kubectl to try this with");
            return None;
        }
        let server = ApiServer::start().unwrap();
        let kind = |word: &str, resource: &str| Kind::custom("apps", "v1", word, resource);
        server.change(|state| {
            state.faults.lets_everybody_in = true;
            state.define(&[
                kind("DaemonSet", "daemonsets"),
                kind("Deployment", "deployments"),
            ]);
        });
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            kubeconfig: Some(server.kubeconfig(dir.path()).unwrap()),
            ..Options::default()
        };
        let mut kubectl = Kubectl::new(&options);
        // What it finds out about servers it keeps at home otherwise.
        kubectl
            .flags
            .extend(["--cache-dir".into(), dir.path().join("cache").into()]);
        Some((server, kubectl, dir))
    }

    #[test]
    fn a_server_understands_what_it_is_asked() {
        let Some((server, kubectl, _dir)) = server() else {
            return;
        };
        assert_eq!(kubectl.server_version().unwrap(), "v1.36.2");
        assert_eq!(kubectl.context().unwrap(), "test");
        assert_eq!(kubectl.get("pod", "shop", "web-0").unwrap(), None);
        let mut pod = objects::pod("web-0", "node-1", "10.0.0.1");
        pod["metadata"]["labels"]["app.kubernetes.io/part-of"] = "underpass".into();
        server.set(pod);
        server.set(objects::pod("web-1", "node-1", "10.0.0.2"));
        let found = kubectl.get("pod", "shop", "web-0").unwrap().unwrap();
        assert_eq!(found["status"]["podIP"], "10.0.0.1");
        let found = kubectl
            .labelled("pods,namespaces", "app.kubernetes.io/part-of=underpass")
            .unwrap();
        let names: Vec<_> = found.iter().map(identity).collect();
        assert_eq!(
            names,
            [("Pod".to_owned(), "shop".to_owned(), "web-0".to_owned())]
        );
        server.set(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}));
        assert_eq!(crate::traces::nodes(&kubectl).unwrap(), ["node-1"]);
    }

    #[test]
    fn what_is_waited_for_is_seen_when_it_comes() {
        let Some((server, kubectl, _dir)) = server() else {
            return;
        };
        let set = |ready: u32| {
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "a", "namespace": "b"},
                "status": {"numberReady": ready}})
        };
        server.set(set(0));
        let short = Duration::from_millis(1);
        let is_ready = |it: &Value| it["status"]["numberReady"] == 1;
        let why = kubectl
            .wait(("daemonset", "b", "a"), short, is_ready)
            .unwrap_err();
        assert!(format!("{why:#}").contains("numberReady"), "{why:#}");
        std::thread::scope(|scope| {
            let waiting = scope
                .spawn(|| kubectl.wait(("daemonset", "b", "a"), harness::wait::PATIENCE, is_ready));
            server.set(set(1));
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_is_executed_in_a_pod_is_told() {
        let Some((server, kubectl, _dir)) = server() else {
            return;
        };
        server.set(objects::pod("web-0", "node-1", "10.0.0.1"));
        server.on_exec(|_, _, words| {
            let (program, words) = words.split_first()?;
            let mut command = Command::new(program);
            command.args(words);
            Some(Exec::Run(command))
        });
        let words = ["sh", "-c", "echo $0", "it's \"so\""];
        let said = kubectl.exec("shop", "web-0", &words).unwrap();
        assert_eq!(said, "it's \"so\"\n");
        let why = kubectl.exec("shop", "web-0", &["sh", "-c", "echo why >&2; exit 3"]);
        let why = format!("{:#}", why.unwrap_err());
        assert!(why.contains("why") && why.contains('3'), "{why}");
    }

    #[test]
    fn a_server_that_is_away_is_told() {
        let Some((server, kubectl, _dir)) = server() else {
            return;
        };
        server.go_away();
        let why = kubectl.get("pod", "shop", "web-0").unwrap_err();
        assert!(
            format!("{why:#}").contains("kubectl get pod web-0"),
            "{why:#}"
        );
    }
}
