//! Namespaces, and what is done to the network inside of them.

use std::{
    env,
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

/// Defines the test of a row that runs in a network namespace of its own; see [`row`](crate::row).
#[macro_export]
macro_rules! netns_row {
    ($name:ident, $defended:expr, [$($defence:literal off: $canary:expr => $reason:literal),+ $(,)?]) => {
        #[test]
        #[ignore = "needs root and iproute2: cargo test --test netns -- --ignored"]
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            if $crate::namespace::is_available(path) {
                let starter = ["unshare", "--net"];
                $crate::kit::isolation::run(&starter, path, $defended, &[$(($defence, $canary, $reason)),+]);
            }
        }
    };
}

/// Whether this process may make a namespace, and has the tools that work inside of it; says so loudly if not.
pub fn is_available(row: &str) -> bool {
    let works = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let tools: [(&str, &[&str]); 4] =
        [("unshare", &["--net", "true"]), ("ip", &["-V"]), ("tc", &["-V"]), ("ss", &["-V"])];
    let Some((missing, _)) = tools.into_iter().find(|(program, arguments)| !works(program, arguments)) else {
        return true;
    };
    let reason = format!("SKIPPED: {row}: `{missing}` does not work (root, util-linux and iproute2 are needed)");
    assert_ne!(env::var("NETNS_REQUIRED").as_deref(), Ok("1"), "{reason}");
    // Not by a macro: the test runner hides what those print for tests that pass.
    _ = writeln!(std::io::stderr(), "\n{reason}");
    false
}

/// Runs a tool inside of the namespace.
pub fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{command}: {stdout}{stderr}");
    stdout
}

/// Makes the namespace usable: it has a loopback interface of its own. Refuses to do so outside of one.
pub fn set_up() {
    let network_of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    // `unshare` becomes this process, whose parent is the test that stayed outside.
    let outside = network_of(&std::os::unix::process::parent_id().to_string());
    assert_ne!(network_of("self"), outside, "this is the machine's own network");
    run("ip link set lo up");
    if !run("tc qdisc show dev lo").contains("clsact") {
        run("tc qdisc add dev lo clsact");
    }
}

/// Cuts an address off: whatever comes from it or goes to it is dropped, without a word to anybody.
pub struct CutCable(());

impl CutCable {
    pub fn to(addr: Ipv4Addr) -> Self {
        let addr = u32::from(addr);
        // Source or destination of the IP header, behind the 14 bytes of Ethernet; 2 drops the packet, 0 lets it pass.
        let program = format!("6,32 0 0 26,21 2 0 {addr},32 0 0 30,21 0 1 {addr},6 0 0 2,6 0 0 0");
        let status = Command::new("tc")
            .args(["filter", "add", "dev", "lo", "egress", "bpf", "direct-action", "bytecode", &program])
            .status()
            .unwrap();
        assert!(status.success(), "the cable cannot be cut");
        Self(())
    }

    pub fn heal(self) {}
}

impl Drop for CutCable {
    fn drop(&mut self) {
        run("tc filter del dev lo egress");
    }
}
