//! How an image leaves its engine: pushed to a registry inside kindlift, which the engine asks
//! what the nodes lack; or saved, whole.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use serde_json::Value;

use crate::engines::{Api, Engine};
use crate::lab::{self, App, Cluster};
use crate::run::{self, Run};

const ALL: [Engine; 4] = [
    Engine::Containerd,
    Engine::Overlay2,
    Engine::Podman,
    Engine::Rootless,
];

/// `kindlift load` of the app's image, by one way.
fn loading(app: &App, engine: Engine, way: &str, cluster: &str) -> Command {
    let mut kindlift = lab::kindlift();
    engine.point(&mut kindlift, Api::Unused);
    kindlift
        .env("KINDLIFT_EXPORT", way)
        .args(["load", &app.tag("dev"), "--cluster", cluster])
        .args(["--verbose", "--output", "json"]);
    kindlift
}

/// Loads, and requires that no name of the run is left in the engine.
fn load(app: &App, engine: Engine, way: &str, cluster: &str) -> Run {
    let running = run::start(&mut loading(app, engine, way, cluster));
    let pid = running.pid();
    let run = running.finish();
    assert_eq!(engine.holds(pid), [].into(), "{engine:?} {run}");
    run
}

/// Builds the app anew under the name that a kubelet reads.
fn build(app: &App, engine: Engine) {
    let name = match engine {
        Engine::Containerd | Engine::Overlay2 => app.tag("dev"),
        Engine::Podman | Engine::Rootless => app.on_node("dev"),
    };
    engine.build(app.folder(), &name);
}

/// Removes the app's images from the engine, under both names.
fn forget(app: &App, engine: Engine) {
    engine.forget(&app.name);
    engine.forget(&format!("docker.io/{}", app.name));
}

fn sent(run: &Run) -> Vec<u64> {
    let nodes = run.json()["images"][0]["nodes"].as_array().unwrap().clone();
    let sent = nodes.iter().map(|node| node["bytes_sent"].as_u64());
    sent.map(Option::unwrap).collect()
}

/// The ports that kindlift takes for this user.
fn ports() -> std::ops::Range<u16> {
    kindlift::push::ports()
}

#[test]
fn each_engine_pushes_only_what_is_missing() {
    for engine in ALL {
        let app = App::new("export");
        app.random("base.bin", 8_000_000);
        build(&app, engine);
        let first = load(&app, engine, "push", "dev")
            .expect(0)
            .says(" push sha256:")
            .never_says("saving");
        let whole: Vec<u64> = sent(&first);
        assert!(
            whole.iter().all(|sent| *sent > 8_000_000),
            "{engine:?} {whole:?}"
        );

        for size in [1_000, 2_000_000] {
            app.random("app.bin", size);
            build(&app, engine);
            let changed = load(&app, engine, "push", "dev")
                .expect(0)
                .never_says("saving");
            let moved = sent(&changed);
            let limit = size + 16_000;
            assert!(
                moved.iter().all(|sent| *sent < limit),
                "{engine:?} {moved:?}"
            );
            lab::proven(&lab::dev(), &[app.on_node("dev")]);
        }
        // The same image, whichever way it comes.
        let id = lab::proven(&lab::dev(), &[app.on_node("dev")]);
        app.forget_on(&lab::dev());
        load(&app, engine, "save", "dev")
            .expect(0)
            .says("saving sha256:");
        assert_eq!(
            lab::proven(&lab::dev(), &[app.on_node("dev")]),
            id,
            "{engine:?}"
        );
        // What came by one way is known when the other asks.
        app.random("app.bin", 1_000);
        build(&app, engine);
        load(&app, engine, "push", "dev").expect(0);
        lab::proven(&lab::dev(), &[app.on_node("dev")]);

        forget(&app, engine);
    }
}

#[test]
fn only_the_node_that_lacks_it_gets_it() {
    let cluster = Cluster::new("lacks", 1, &[]);
    let app = App::new("lacks");
    app.random("base.bin", 2_000_000);
    build(&app, Engine::Containerd);
    load(&app, Engine::Containerd, "push", &cluster.name).expect(0);
    lab::exec(cluster.worker(), &["crictl", "rmi", &app.on_node("dev")]).expect(0);
    let again = load(&app, Engine::Containerd, "push", &cluster.name).expect(0);
    let moved = sent(&again);
    assert_eq!(moved[0], 0, "{again}");
    assert!(moved[1] > 2_000_000, "{again}");
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
}

#[test]
fn layers_that_others_brought_are_known_from_then_on() {
    let cluster = Cluster::new("others", 0, &[]);
    let app = App::new("others");
    app.random("base.bin", 4_000_000);
    build(&app, Engine::Containerd);
    let mut kind = lab::program("kind");
    kind.args([
        "load",
        "docker-image",
        &app.tag("dev"),
        "--name",
        &cluster.name,
    ]);
    run::run(&mut kind).expect(0);
    app.random("app.bin", 1_000);
    build(&app, Engine::Containerd);
    load(&app, Engine::Containerd, "push", &cluster.name).expect(0);
    app.random("app.bin", 1_000);
    build(&app, Engine::Containerd);
    let third = load(&app, Engine::Containerd, "push", &cluster.name).expect(0);
    assert!(sent(&third)[0] < 16_000, "{third}");
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
}

/// What the log says of a layer that is unpacked before the engine is done, and of what was taken for it.
const EARLY: &str = ": unpacked early ";
const NOT_EARLY: &str = ": not unpacked early ";

/// Loads the app's image as the engine pushes it; tells how many nodes said each of those.
fn told_early(app: &App, engine: Engine, cluster: &Cluster) -> (usize, usize) {
    let mut load = loading(app, engine, "push", &cluster.name);
    let run = run::run(load.env("KINDLIFT_LOG", "kindlift=debug"))
        .expect(0)
        .never_says("trying again")
        .never_says("saving");
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    for node in &cluster.nodes {
        assert!(lab::leases(node).is_empty(), "{node} keeps a lease");
    }
    let count = |words| run.stderr.matches(words).count();
    (count(EARLY), count(NOT_EARLY))
}

#[test]
fn a_lone_layer_is_unpacked_while_the_engine_is_busy() {
    let cluster = Cluster::new("early", 1, &[]);
    for engine in ALL {
        let app = App::new("early");
        build(&app, engine);
        // Of several layers it is not known which is which.
        assert_eq!(told_early(&app, engine, &cluster), (0, 0), "{engine:?}");
        for size in [1_000, 2_000_000, 6_000_000] {
            app.random("app.bin", size);
            build(&app, engine);
            assert_eq!(told_early(&app, engine, &cluster), (2, 0), "{engine:?}");
        }
        forget(&app, engine);
    }
}

/// Layers that others have brought are pushed once more, compressed: one of them comes first.
#[test]
fn another_layer_taken_for_the_lone_one_does_no_harm() {
    let cluster = Cluster::new("mistaken", 0, &[]);
    let app = App::new("mistaken");
    let engine = Engine::Overlay2;
    build(&app, engine);
    engine.give_to_kind(&app, &["--name", &cluster.name]);
    app.random("app.bin", 20_000_000);
    build(&app, engine);
    assert_eq!(told_early(&app, engine, &cluster), (0, 1));
    engine.forget(&app.name);
}

#[test]
fn a_layer_that_comes_once_more_is_sent_once_more() {
    let cluster = Cluster::new("twice", 0, &[]);
    for engine in [Engine::Containerd, Engine::Podman] {
        let app = App::new("twice");
        app.random("base.bin", 2_000_000);
        let once = "FROM scratch\nCOPY base.bin /\nCOPY app.bin /\n";
        for text in [once.to_owned(), format!("{once}COPY base.bin /\n")] {
            app.dockerfile(&text);
            build(&app, engine);
            load(&app, engine, "push", &cluster.name)
                .expect(0)
                .never_says("trying again")
                .never_says("saving");
            lab::proven(&cluster.nodes, &[app.on_node("dev")]);
        }
        forget(&app, engine);
    }
}

#[test]
fn a_name_that_a_killed_push_left_goes_with_the_next() {
    let app = App::new("swept");
    build(&app, Engine::Containerd);
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let us = kindlift::owner::Owner::this().label().replace('/', "_");
    let dead = us.replacen(
        &format!("_{}_", std::process::id()),
        &format!("_{}_", ended.id()),
        1,
    );
    // One of a run that is dead, and one of a run that lives.
    let [left, alive] = [dead, us].map(|owner| {
        let name = format!("127.0.0.1:1/kindlift/load:{owner}_1_{}", lab::unique("x"));
        lab::docker(&["tag", &app.tag("dev"), &name]);
        name
    });
    load(&app, Engine::Containerd, "push", "dev").expect(0);
    let names = Engine::Containerd.names(lab::PUSHES);
    assert!(!names.contains(&left), "{names:?}");
    assert!(names.contains(&alive), "{names:?}");
    lab::docker(&["image", "rm", &alive]);
    // The user's own name is still there.
    lab::docker(&["image", "inspect", &app.tag("dev")]);
}

/// The port to which a run let its engine push.
fn port(stderr: &str) -> Option<u16> {
    let rest = stderr.split(" to 127.0.0.1:").nth(1)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[test]
fn a_build_is_pushed_under_the_name_that_it_got() {
    for engine in [Engine::Containerd, Engine::Overlay2] {
        let app = App::new("named");
        let mut kindlift = lab::kindlift();
        engine.point(&mut kindlift, Api::Unused);
        let tag = app.tag("dev");
        kindlift.args(["build", "--tag", &tag, "--cluster", "dev", "--verbose"]);
        let running = run::start(kindlift.arg(app.folder()));
        let pid = running.pid();
        let run = running.finish().expect(0).never_says("saving");
        let port = port(&run.stderr).unwrap();
        // Docker says what it names.
        run.says(&format!("127.0.0.1:{port}/kindlift/load:"));
        assert_eq!(engine.holds(pid), [].into(), "{engine:?}");
        lab::proven(&lab::dev(), &[app.on_node("dev")]);
        forget(&app, engine);
    }
}

#[test]
fn where_the_usual_ports_are_taken_another_one_does() {
    let app = App::new("ports");
    build(&app, Engine::Containerd);
    // Other tests' runs have some of them for a while.
    let mut taken = Vec::new();
    run::wait_until("all are taken", run::DEADLINE, || {
        for port in ports() {
            taken.extend(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        }
        taken.len() == ports().len()
    });
    let run = load(&app, Engine::Containerd, "push", "dev")
        .expect(0)
        .never_says("saving");
    let port = port(&run.stderr).unwrap();
    assert!(!ports().contains(&port), "{port}");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn where_no_port_can_be_had_the_image_is_saved() {
    let app = App::new("noport");
    build(&app, Engine::Containerd);
    // In a network of its own, which has two ports for those who do not care which.
    const ALL_TAKEN: &str = "ip link set lo up &&
        echo 20998 20999 >/proc/sys/net/ipv4/ip_local_port_range &&
        exec perl -MIO::Socket::INET -e '
            $^F = 1000;
            my @taken = map { IO::Socket::INET->new(
                LocalAddr => \"127.0.0.1\", LocalPort => $_, Listen => 1) or die \"$_: $@\"
            } 20998, 20999, shift .. shift;
            exec @ARGV or die $!;' \"$@\"";
    let mut kindlift = lab::program("unshare");
    kindlift
        .args(["--map-root-user", "--net", "sh", "-c", ALL_TAKEN, "sh"])
        .args([ports().start, ports().end - 1].map(|port| port.to_string()))
        .arg(lab::kindlift().get_program())
        .args(["load", &app.tag("dev"), "--cluster", "dev", "--verbose"]);
    run::run(&mut kindlift)
        .expect(0)
        .says("saving instead: no port of 127.0.0.1 can be had")
        .says("saving sha256:");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn podman_packs_as_the_format_of_its_image_allows() {
    for (format, packed) in [("oci", ".tar+zstd"), ("docker", ".tar.gzip")] {
        let app = App::new("packed");
        app.random("app.bin", 1_000_000);
        let mut podman = Engine::Podman.command();
        let name = app.on_node("dev");
        podman.args(["build", "--format", format, "--tag", &name]);
        run::run(podman.arg(app.folder())).expect(0);
        let loaded = load(&app, Engine::Podman, "push", "dev")
            .expect(0)
            .never_says("saving");
        lab::proven(&lab::dev(), &[name]);
        let digest = loaded.json()["images"][0]["manifest_digest"].clone();
        let digest = digest.as_str().unwrap();
        for node in lab::dev() {
            let get = ["ctr", "-n", "k8s.io", "content", "get", digest];
            let manifest: Value =
                serde_json::from_str(&lab::exec(&node, &get).expect(0).stdout).unwrap();
            let layers = manifest["layers"].as_array().unwrap();
            let types = layers.iter().map(|layer| layer["mediaType"].as_str());
            let types: Vec<&str> = types.map(Option::unwrap).collect();
            assert!(
                types.last().unwrap().ends_with(packed),
                "{format}: {types:?}"
            );
        }
        forget(&app, Engine::Podman);
    }
}

/// Sends a request to a port and returns the answer's first line.
fn knock(port: u16, line: &str, header: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{header}\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_stranger_on_this_machine_gets_nothing() {
    let cluster = Cluster::new("stranger", 0, &[]);
    let app = App::new("stranger");
    app.random("app.bin", 60_000_000);
    build(&app, Engine::Containerd);
    let mut kindlift = lab::kindlift();
    kindlift.args(["load", &app.tag("dev"), "--cluster", &cluster.name, "-v"]);
    let mut running = run::start(&mut kindlift);
    let mut listening = None;
    running.wait_until("the registry listens", |running| {
        listening = port(&running.stderr());
        listening.is_some()
    });
    let port = listening.unwrap();
    // While the push goes on: the node takes nothing as long as it stands still.
    lab::wait_for_transfer(&cluster.nodes[0]);
    lab::pause(&cluster.nodes[0]);
    let digest = format!("sha256:{}", "1".repeat(64));
    let guess = "Authorization: Basic a2luZGxpZnQ6a2luZGxpZnQ=\r\n";
    let mut answers = Vec::new();
    for header in ["", guess] {
        for line in [
            "GET /v2/".to_owned(),
            "GET /".to_owned(),
            format!("HEAD /v2/kindlift/load/blobs/{digest}"),
            "POST /v2/kindlift/load/blobs/uploads/".to_owned(),
            format!("PUT /v2/kindlift/load/blobs/uploads/1?digest={digest}"),
            "DELETE /v2/kindlift/load/blobs/uploads/1".to_owned(),
            "PUT /v2/kindlift/load/manifests/now".to_owned(),
        ] {
            let answer = knock(port, &line, header);
            answers.push((line, answer));
        }
    }
    // Every other address of this machine: nothing listens there.
    let address = lab::address(&cluster.nodes[0]);
    let gateway = address.rsplit_once('.').unwrap().0.to_owned() + ".1";
    let outside = TcpStream::connect((gateway.as_str(), port));
    lab::docker(&["unpause", &cluster.nodes[0]]);
    for (line, answer) in answers {
        assert_eq!(answer.unwrap(), "HTTP/1.1 401 Unauthorized", "{line}");
    }
    let refused = outside.map(drop).unwrap_err().kind();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "{gateway}");
    // And the push has not taken note.
    running.finish().expect(0);
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    // It is gone with the command; at most another test's run has the port for a while.
    run::wait_until("nothing listens", run::DEADLINE, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()
    });
}

#[test]
fn a_push_that_falls_silent_is_given_up() {
    let cluster = Cluster::new("quiet", 0, &[]);
    let before = cluster.state();
    let app = App::new("quiet");
    // More large layers than flow at the same time: those that wait are no sign of life.
    let layers: Vec<String> = (0..5).map(|n| format!("layer{n}")).collect();
    let copies: String = layers.iter().map(|l| format!("COPY {l} /\n")).collect();
    layers
        .iter()
        .for_each(|layer| app.random(layer, 20_000_000));
    app.dockerfile(&format!("FROM scratch\n{copies}"));
    build(&app, Engine::Podman);
    let mut kindlift = lab::kindlift();
    Engine::Podman.point(&mut kindlift, Api::Unused);
    kindlift
        .args(["load", &app.tag("dev"), "--cluster", &cluster.name])
        .args(["--silence-timeout", "2"]);
    let running = run::start(&mut kindlift);
    lab::wait_for_transfer(&cluster.nodes[0]);
    let podman = pushing(&app);
    signal(podman, rustix::process::Signal::STOP);
    let run = running.finish();
    run.expect(6)
        .says("error: the push has said nothing for 2 s")
        .says("--silence-timeout");
    app.is_nowhere(&cluster.nodes);
    assert_eq!(cluster.state(), before);
    Engine::Podman.forget(&format!("docker.io/{}", app.name));
}

#[test]
fn an_engine_that_dies_in_the_middle_is_replaced_by_a_save() {
    let cluster = Cluster::new("dies", 0, &[]);
    let app = App::new("dies");
    app.random("app.bin", 60_000_000);
    build(&app, Engine::Podman);
    let mut kindlift = lab::kindlift();
    Engine::Podman.point(&mut kindlift, Api::Unused);
    kindlift.args(["load", &app.tag("dev"), "--cluster", &cluster.name, "-v"]);
    let running = run::start(&mut kindlift);
    lab::wait_for_transfer(&cluster.nodes[0]);
    signal(pushing(&app), rustix::process::Signal::KILL);
    running
        .finish()
        .expect(0)
        .says("saving instead: `podman push ")
        .never_says("error");
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    assert_eq!(lab::leases(&cluster.nodes[0]), [].into());
    Engine::Podman.forget(&format!("docker.io/{}", app.name));
}

/// Finds the podman that pushes an app's image.
fn pushing(app: &App) -> i32 {
    let id = Engine::Podman.hex(&app.tag("dev"));
    let mut found = None;
    run::wait_until("podman pushes", std::time::Duration::from_secs(10), || {
        let processes = std::fs::read_dir("/proc").unwrap();
        found = processes.flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains("podman") && line.contains(" push ") && line.contains(&id))
                .then_some(pid)
        });
        found.is_some()
    });
    found.unwrap()
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn an_unknown_way_is_a_usage_error() {
    let app = App::new("way");
    build(&app, Engine::Containerd);
    let run = load(&app, Engine::Containerd, "carry", "dev").expect(2);
    let document: Value = run.json();
    assert_eq!(document["error"]["message"], "KINDLIFT_EXPORT is \"carry\"");
    app.is_nowhere(&lab::dev());
}
