//! A server of this program's own: started on a free port, ended with this program's interest in it, whatever happens.

use crate::client::Target;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// `air serve`; killed when dropped, also where this program panics.
pub struct Server {
    child: Child,
    address: String,
    /// What it says: a file without a name, which goes with it.
    said: File,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub fn start(air: &Path, args: &[&str]) -> Result<Server, String> {
        let said = tempfile::tempfile().map_err(|e| format!("cannot keep what a server says: {e}"))?;
        let log = said.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(air);
        command.args(["serve", "--port", "0"]).args(args).env_clear().stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(log).spawn();
        let child = child.map_err(|e| format!("cannot start {}: {e}", air.display()))?;
        // From here on it is killed however this ends.
        let mut server = Server { child, address: String::new(), said };
        let mut line = String::new();
        let out = server.child.stdout.take().ok_or("its output is not piped")?;
        BufReader::new(out).read_line(&mut line).map_err(|e| e.to_string())?;
        let address = line.trim().strip_suffix("/v1").and_then(|l| l.split_once("://")).map(|(_, at)| at.to_string());
        server.address = address.ok_or_else(|| format!("not ready: {line:?}: {}", server.said()))?;
        Ok(server)
    }

    /// For those who ask it, with a key or without.
    pub fn target(&self, key: Option<&str>) -> Target {
        Target { address: self.address.clone(), key: key.map(str::to_string) }
    }

    /// Bytes of memory that it holds now.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kb = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kb.unwrap_or(0) << 10
    }

    /// Asks it to end.
    pub fn end(&self) {
        // One that has ended already shows in its status.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// Its status, if it ends in time.
    pub async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < within {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Whether it runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last of what it said.
    pub fn said(&self) -> String {
        let mut bytes = vec![0; 2000];
        let from = self.said.metadata().map_or(0, |m| m.len().saturating_sub(bytes.len() as u64));
        let n = self.said.read_at(&mut bytes, from).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
