//! Images out of a registry, read without any engine.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;

use crate::lab::{self, Cluster};
use crate::registry::{self, Guard, PASSWORD, Registry, USER};
use crate::run;

fn load(image: &str) -> Command {
    let mut kindlift = lab::kindlift();
    kindlift.args(["load", &format!("docker://{image}"), "--cluster", "dev"]);
    kindlift
}

/// Removes an image from nodes and shows that no engine has it.
struct Forget(String);

impl Drop for Forget {
    fn drop(&mut self) {
        lab::on_each(&lab::dev(), |node| {
            lab::exec(node, &["crictl", "rmi", &self.0])
        });
    }
}

#[test]
fn each_layer_is_fetched_once_for_all_nodes_and_never_again() {
    let registry = Registry::start();
    let name = format!("{}:v1", lab::unique("fetch"));
    let image = registry.image(&name, "linux/amd64", &registry.layer("one"));
    let _forget = Forget(image.clone());
    run::run(load(&image).arg("-v"))
        .expect(0)
        .says("loaded")
        .says("spooling it to a temporary file");
    lab::proven(&lab::dev(), std::slice::from_ref(&image));
    let layers = registry::layers(&image);
    for layer in &layers {
        assert_eq!(registry.gets(layer).len(), 1, "{layer}");
    }
    // No engine was asked, and none has it.
    assert_eq!(lab::image_names(image.as_str()), [].into());

    run::run(load(&image).arg("-v"))
        .expect(0)
        .says("already there")
        .never_says("fetching");
    for layer in &layers {
        assert_eq!(registry.gets(layer).len(), 1, "{layer}");
    }
}

#[test]
fn one_platform_of_an_index_and_no_other() {
    let registry = Registry::start();
    let theme = lab::unique("index");
    let amd = registry.image(
        &format!("{theme}:amd"),
        "linux/amd64",
        &registry.layer("amd"),
    );
    let arm = registry.image(
        &format!("{theme}:arm"),
        "linux/arm64",
        &registry.layer("arm"),
    );
    let index = registry.index(&format!("{theme}:all"), &[&amd, &arm]);
    let _forget = Forget(index.clone());
    run::run(&mut load(&index)).expect(0);
    lab::proven(&lab::dev(), std::slice::from_ref(&index));
    let shown = lab::crictl("dev-worker", &index).unwrap();
    assert_eq!(shown.architecture, "amd64");

    run::run(load(&index).args(["--platform", "linux/s390x"]))
        .expect(6)
        .says("no manifest for linux/s390x (it has: linux/amd64, linux/arm64)");
    run::run(load(&index).args(["--platform", "linux/arm64"]))
        .expect(6)
        .says("the image is for linux/arm64");
    run::run(&mut load(&arm))
        .expect(6)
        .says("no manifest for linux/amd64 (it has: linux/arm64)");
    assert_eq!(lab::crictl("dev-worker", &arm), None);
    assert_eq!(lab::crictl("dev-worker", &index), Some(shown));
}

#[test]
fn by_digest_and_under_another_name() {
    let registry = Registry::start();
    let theme = lab::unique("digest");
    let image = registry.image(
        &format!("{theme}:v1"),
        "linux/amd64",
        &registry.layer("one"),
    );
    let digest = registry::crane(&["digest", &image]);
    let pinned = format!("{}/{theme}@{}", registry.host, digest.trim());
    let other = format!("kindlift-test/{theme}:mine");
    let on_node = format!("docker.io/{other}");
    let _forget = Forget(on_node.clone());
    run::run(load(&pinned).args(["--as", &other])).expect(0);
    lab::proven(&lab::dev(), &[on_node]);
    // Pods that pin the digest ask the node for just this name.
    run::run(&mut load(&pinned)).expect(0);
    for node in lab::dev() {
        let run = lab::exec(&node, &["crictl", "inspecti", &pinned]);
        assert!(run.stdout.contains(digest.trim()), "{node}: {run}");
    }
    run::run(&mut load(&format!(
        "{}/{theme}@sha256:{}",
        registry.host,
        "0".repeat(64)
    )))
    .expect(6)
    .says("has no image");
}

/// A home with a file for credentials.
fn home(file: &str, content: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
    home
}

fn auths(host: &str, password: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
    format!(r#"{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}"#)
}

/// `load` in a home of its own, where no other credentials are.
fn load_at_home(image: &str, home: &Path) -> Command {
    let mut kindlift = load(image);
    kindlift
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env_remove("DOCKER_CONFIG");
    kindlift
}

#[test]
fn credentials_are_docker_s_and_podman_s() {
    let open = Registry::start();
    let theme = lab::unique("guarded");
    open.image(&format!("{theme}:v1"), "linux/amd64", &open.layer("one"));
    let registry = open.guarded(&Guard {
        password: true,
        ..Guard::default()
    });
    let host = &registry.host;
    let image = format!("{host}/{theme}:v1");
    let _forget = Forget(image.clone());

    let nobody = tempfile::tempdir().unwrap();
    run::run(&mut load_at_home(&image, nobody.path()))
        .expect(6)
        .says(&format!("{host} wants credentials for {image}"))
        .says(".docker/config.json (not there)")
        .says("containers/auth.json (not there)")
        .says(&format!(
            "hint: check the name, or log in: `docker login {host}`"
        ));
    let wrong = home(".docker/config.json", &auths(host, "wr0ng"));
    run::run(&mut load_at_home(&image, wrong.path()))
        .expect(6)
        .says("does not let these credentials read")
        .says(".docker/config.json (used)")
        .never_says("wr0ng");
    lab::on_each(&lab::dev(), |node| {
        assert_eq!(lab::crictl(node, &image), None)
    });

    for file in [
        ".docker/config.json",
        "run/containers/auth.json",
        ".config/containers/auth.json",
    ] {
        let home = home(file, &auths(host, PASSWORD));
        run::run(load_at_home(&image, home.path()).arg("-v"))
            .expect(0)
            .says(&format!("{file} (used)"))
            .never_says(PASSWORD);
    }
    let named = home("somewhere.json", &auths(host, PASSWORD));
    run::run(
        load_at_home(&image, nobody.path())
            .env("REGISTRY_AUTH_FILE", named.path().join("somewhere.json")),
    )
    .expect(0);
    run::run(load_at_home(&image, nobody.path()).env("DOCKER_CONFIG", {
        std::fs::write(named.path().join("config.json"), auths(host, PASSWORD)).unwrap();
        named.path()
    }))
    .expect(0);
    lab::proven(&lab::dev(), std::slice::from_ref(&image));
}

#[test]
fn a_credential_helper_is_asked() {
    let open = Registry::start();
    let theme = lab::unique("helper");
    open.image(&format!("{theme}:v1"), "linux/amd64", &open.layer("one"));
    let registry = open.guarded(&Guard {
        password: true,
        ..Guard::default()
    });
    let host = &registry.host;
    let image = format!("{host}/{theme}:v1");
    let _forget = Forget(image.clone());
    let helper = |home: &Path, script: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = home.join("docker-credential-kindlift-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:{}", home.display(), lab::var("PATH"))
    };
    let knows = format!(
        "[ \"$1\" = get ] && [ \"$(cat)\" = {host} ] || exit 1\n\
         echo '{{\"ServerURL\": \"\", \"Username\": \"{USER}\", \"Secret\": \"{PASSWORD}\"}}'"
    );
    for config in [
        format!(r#"{{"credHelpers": {{"{host}": "kindlift-test"}}}}"#),
        format!(r#"{{"auths": {{"{host}": {{}}}}, "credsStore": "kindlift-test"}}"#),
    ] {
        let home = home(".docker/config.json", &config);
        let path = helper(home.path(), &knows);
        run::run(
            load_at_home(&image, home.path())
                .env("PATH", path)
                .arg("-v"),
        )
        .expect(0)
        .says("by docker-credential-kindlift-test")
        .never_says(PASSWORD);
    }
    lab::proven(&lab::dev(), std::slice::from_ref(&image));

    let config = r#"{"credsStore": "kindlift-test"}"#;
    let home = home(".docker/config.json", config);
    // The helper of an uninstalled desktop is no reason to fail where nobody needs it.
    let public = format!("{}/{theme}:v1", open.host);
    let _forget_too = Forget(public.clone());
    run::run(&mut load_at_home(&public, home.path())).expect(0);
    run::run(&mut load_at_home(&image, home.path()))
        .expect(6)
        .says("cannot start `docker-credential-kindlift-test`");
    for (script, says) in [
        (
            "echo 'credentials not found in native keychain'; exit 1",
            "docker-credential-kindlift-test has none for it",
        ),
        ("echo 'keychain is locked'; exit 1", "keychain is locked"),
        ("echo nonsense", "gave no credentials"),
    ] {
        let path = helper(home.path(), script);
        run::run(load_at_home(&image, home.path()).env("PATH", path))
            .expect(6)
            .says(says);
    }
}

#[test]
fn tls_by_an_authority_of_one_s_own() {
    let open = Registry::start();
    let theme = lab::unique("tls");
    open.image(&format!("{theme}:v1"), "linux/amd64", &open.layer("one"));
    let registry = open.guarded(&Guard {
        tls: true,
        password: true,
        ..Guard::default()
    });
    let image = format!("{}/{theme}:v1", registry.host);
    let _forget = Forget(image.clone());
    let home = home(".docker/config.json", &auths(&registry.host, PASSWORD));
    run::run(&mut load_at_home(&image, home.path()))
        .expect(6)
        .says(&format!("{} cannot be trusted", registry.host))
        .says("SSL_CERT_FILE");
    lab::on_each(&lab::dev(), |node| {
        assert_eq!(lab::crictl(node, &image), None)
    });
    run::run(load_at_home(&image, home.path()).env("SSL_CERT_FILE", registry::authority()))
        .expect(0);
    lab::proven(&lab::dev(), &[image]);
}

#[test]
fn plain_http_elsewhere_only_when_asked() {
    let open = Registry::start();
    let theme = lab::unique("plain");
    open.image(&format!("{theme}:v1"), "linux/amd64", &open.layer("one"));
    // An address of this host that is not its loopback.
    let gateway = "{{(index .NetworkSettings.Networks \"bridge\").Gateway}}";
    let gateway = lab::docker(&["inspect", "--format", gateway, "dev-worker"]);
    let registry = open.guarded(&Guard {
        address: Some(gateway.trim()),
        ..Guard::default()
    });
    let image = format!("{}/{theme}:v1", registry.host);
    let _forget = Forget(image.clone());
    run::run(&mut load(&image))
        .expect(6)
        .says("does not speak TLS")
        .says("hint: if it is meant to speak plain HTTP, say --plain-http");
    run::run(load(&image).arg("--plain-http")).expect(0);
    lab::proven(&lab::dev(), &[image]);
}

#[test]
fn what_is_in_the_way_is_told_with_the_next_step() {
    let registry = Registry::start();
    let gone = {
        let other = Registry::start();
        other.host.clone()
    };
    for (image, says, hint) in [
        (
            format!("{}/no/such:v1", registry.host),
            format!("{} has no image", registry.host),
            "check the name and the tag",
        ),
        (
            "no-such-host.invalid/x:1".to_owned(),
            "there is no host no-such-host.invalid".to_owned(),
            "check the name",
        ),
        (
            format!("{gone}/x:1"),
            format!("{gone} cannot be reached"),
            "check that the registry is up",
        ),
    ] {
        run::run(&mut load(&image))
            .expect(6)
            .says(&format!("docker://{image} is refused"))
            .says(&says)
            .says(hint);
    }
}

#[test]
fn a_damaged_layer_reaches_no_name() {
    let registry = Registry::start();
    let name = format!("{}:v1", lab::unique("damaged"));
    let image = registry.image(&name, "linux/amd64", &registry.layer("one"));
    let blob = registry.blob(&registry::layers(&image)[0]);
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    let cluster = Cluster::new("damaged-blob", 1, &[]);
    let before = cluster.state();
    let try_it = || {
        let mut kindlift = lab::kindlift();
        let source = format!("docker://{image}");
        kindlift.args(["load", &source, "--cluster", &cluster.name]);
        run::run(&mut kindlift).expect(6)
    };
    try_it().says("is not what its digest says");
    assert_eq!(cluster.state(), before);
    bytes.truncate(middle);
    std::fs::write(&blob, &bytes).unwrap();
    try_it();
    assert_eq!(cluster.state(), before);
    std::fs::remove_file(&blob).unwrap();
    try_it()
        .says("lacks its layer")
        .says("push the image again");
    assert_eq!(cluster.state(), before);
}

/// A faulty network, and no more: passes everything on to a registry, but cuts the first
/// connections that carry much.
struct Cutting {
    host: String,
    cuts: Arc<AtomicUsize>,
}

impl Cutting {
    fn before(registry: &Registry, cuts: usize, after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let left = Arc::new(AtomicUsize::new(cuts));
        let (to, counter) = (registry.host.clone(), Arc::clone(&left));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&to) else {
                    return;
                };
                let (mut up, mut up_to) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut up, &mut up_to);
                });
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || pass(server, client, after, &counter));
            }
        });
        Self { host, cuts: left }
    }
}

fn pass(mut server: TcpStream, mut client: TcpStream, after: usize, cuts: &AtomicUsize) {
    let (mut passed, mut chunk) = (0, [0; 4096]);
    while let Ok(n @ 1..) = server.read(&mut chunk) {
        passed += n;
        let take = |n: usize| n.checked_sub(1);
        let cut = passed > after
            && cuts
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                .is_ok();
        if cut || client.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_fetch_that_is_cut_goes_on_where_it_was() {
    let registry = Registry::start();
    let theme = lab::unique("cut");
    let image = registry.image(
        &format!("{theme}:v1"),
        "linux/amd64",
        &registry.layer("one"),
    );
    let layer = registry::layers(&image).remove(0);
    let cutting = Cutting::before(&registry, 2, 400_000);
    let through = format!("{}/{theme}:v1", cutting.host);
    let _forget = Forget(through.clone());
    run::run(&mut load(&through)).expect(0);
    lab::proven(&lab::dev(), &[through]);
    assert_eq!(cutting.cuts.load(Ordering::SeqCst), 0);
    let gets = registry.gets(&layer);
    assert_eq!(gets.len(), 3, "{gets:#?}");
}

/// A fake of a cloud's token service before a real registry: gives the access token to who asks
/// with the password or the identity token, and passes on what comes with it.
struct FakeCloud(String);

const IDENTITY: &str = "fake-identity-token";
const ACCESS: &str = "fake-access-token";

impl FakeCloud {
    fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (own, to) = (host.clone(), registry.host.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (own, to) = (own.clone(), to.clone());
                // What a client sends wrong it sees by the connection's end.
                std::thread::spawn(move || answer(client, &own, &to).ok());
            }
        });
        Self(host)
    }
}

fn answer(mut client: TcpStream, own: &str, to: &str) -> std::io::Result<()> {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        request.push(byte[0]);
        // TLS is tried first; a server of plain HTTP says that this is no HTTP.
        if !request[0].is_ascii_alphabetic() {
            write!(
                client,
                "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
            )?;
            client.shutdown(std::net::Shutdown::Write)?;
            return std::io::copy(&mut client, &mut std::io::sink()).map(drop);
        }
    }
    let head = String::from_utf8(request).unwrap();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.to_owned()))
    };
    let authorization = header("authorization").unwrap_or_default();
    if head.contains(" /token") {
        let length = header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut form = vec![0; length];
        client.read_exact(&mut form)?;
        let form = String::from_utf8(form).unwrap();
        let password =
            base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let by_identity = head.starts_with("POST ")
            && [
                "grant_type=refresh_token",
                &format!("refresh_token={IDENTITY}"),
                "%3Apull",
            ]
            .iter()
            .all(|wanted| form.contains(wanted));
        let known = by_identity || authorization == format!("Basic {password}");
        let body = format!("{{\"access_token\": \"{ACCESS}\"}}");
        let status = if known { "200 OK" } else { "401 Unauthorized" };
        let body = if known { body } else { "{}".into() };
        return write!(
            client,
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    if authorization != format!("Bearer {ACCESS}") {
        return write!(
            client,
            "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\
             WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"fake\"\r\n\r\n"
        );
    }
    let mut server = TcpStream::connect(to)?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    std::io::copy(&mut server, &mut client).map(drop)
}

#[test]
fn tokens_as_clouds_give_them() {
    let registry = Registry::start();
    let theme = lab::unique("token");
    registry.image(
        &format!("{theme}:v1"),
        "linux/amd64",
        &registry.layer("one"),
    );
    let FakeCloud(host) = FakeCloud::before(&registry);
    let image = format!("{host}/{theme}:v1");
    let _forget = Forget(image.clone());
    let identity = |token: &str| {
        let entry = format!(r#"{{"auth": "MDA6", "identitytoken": "{token}"}}"#);
        format!(r#"{{"auths": {{"{host}": {entry}}}}}"#)
    };
    for (config, says) in [
        ("{}".to_owned(), "wants credentials"),
        (auths(&host, "wr0ng"), "does not let these credentials read"),
        (identity("stale"), "the identity token was refused"),
    ] {
        let home = home(".docker/config.json", &config);
        run::run(&mut load_at_home(&image, home.path()))
            .expect(6)
            .says(says);
    }
    lab::on_each(&lab::dev(), |node| {
        assert_eq!(lab::crictl(node, &image), None);
    });
    for config in [auths(&host, PASSWORD), identity(IDENTITY)] {
        let home = home(".docker/config.json", &config);
        run::run(&mut load_at_home(&image, home.path())).expect(0);
    }
    lab::proven(&lab::dev(), &[image]);
}
