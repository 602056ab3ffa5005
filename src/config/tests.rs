use super::*;

fn file(text: &str) -> Result<Vec<(&'static str, Value)>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    std::fs::write(&path, text).unwrap();
    file::read(&path)
}

fn refused(text: &str) -> (String, String) {
    let error = file(text).unwrap_err();
    let message = error.to_string();
    let at = message.find(FILE).unwrap();
    let hint = error.next_step().unwrap_or_default().to_owned();
    (message[at + FILE.len()..].to_owned(), hint)
}

#[test]
fn every_form_is_read() {
    let read =
        file("engine = \"podman\"\ncluster = 'dev'\nnodes = [\"a\", \"b\"]\nstall-timeout = 3_0\n");
    let read: Vec<_> = read
        .unwrap()
        .into_iter()
        .map(|(key, value)| (key, value.parts.join("+")))
        .collect();
    for pair in [
        ("engine", "podman"),
        ("cluster", "dev"),
        ("nodes", "a+b"),
        ("stall-timeout", "30"),
    ] {
        assert!(
            read.contains(&(pair.0, pair.1.to_owned())),
            "{pair:?} in {read:?}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_line() {
    for (text, message, hint) in [
        (
            "\nengin = 1",
            ":2: there is no setting \"engin\"",
            "did you mean engine?",
        ),
        (
            "stall_timeout = 1",
            ":1: there is no setting \"stall_timeout\"",
            "did you mean stall-timeout?",
        ),
        (
            "colour = 1",
            ":1: there is no setting \"colour\"",
            "there is engine, cluster, kube-context, nodes, stall-timeout, silence-timeout",
        ),
        (
            "engine = \"lxc\"",
            ":1: engine is \"lxc\"",
            "write engine = \"docker\" or \"podman\"",
        ),
        (
            "engine = true",
            ":1: engine is true",
            "write engine = \"docker\" or \"podman\"",
        ),
        (
            "cluster = \"\"",
            ":1: cluster is \"\"",
            "write cluster = \"NAME\"",
        ),
        (
            "nodes = \"a,b\"",
            ":1: nodes is \"a,b\"",
            "write nodes = [\"NAME\", \"NAME\"]",
        ),
        (
            "nodes = [1]",
            ":1: nodes is [1]",
            "write nodes = [\"NAME\", \"NAME\"]",
        ),
        (
            "nodes = []",
            ":1: nodes is []",
            "write nodes = [\"NAME\", \"NAME\"]",
        ),
        (
            "#\n#\nstall-timeout = \"9\"",
            ":3: stall-timeout is \"9\"",
            "write stall-timeout = SECONDS, from 1 to 3600",
        ),
        (
            "stall-timeout = 3601",
            ":1: stall-timeout is 3601",
            "write stall-timeout = SECONDS, from 1 to 3600",
        ),
        (
            "stall-timeout = 0x10",
            ":1: stall-timeout is 0x10",
            "write stall-timeout = SECONDS, from 1 to 3600",
        ),
        (
            "engine = \"docker\"\n[kindlift]\nengine = \"podman\"",
            ":3: engine is set twice",
            "leave one of the two out",
        ),
        ("[other]\na = 1", ":1: there is no setting \"other\"", ""),
        ("kindlift = 1", ":1: there is no setting \"kindlift\"", ""),
        (
            "cluster = \"a\"\nkube-context = \"b\"",
            ":2: both cluster and kube-context are set",
            "they say the same thing: leave one of the two out",
        ),
    ] {
        let (found, next) = refused(text);
        assert_eq!(found, message, "{text}");
        assert!(next.starts_with(hint), "{text}: {next}");
    }
    let (found, _) = refused("a = 1\nb = = 2\n");
    assert!(found.starts_with(":2: "), "{found}");
}

#[test]
fn the_file_is_the_projects() {
    let top = tempfile::tempdir().unwrap();
    let home = top.path().join("home");
    let deep = home.join("repository/below/deeper");
    std::fs::create_dir_all(&deep).unwrap();
    let find = |folder: &Path| file::find(folder, Some(&home));
    let put = |folder: &Path| {
        let path = folder.join(FILE);
        std::fs::write(&path, "").unwrap();
        path
    };
    // Neither home's nor one above it, unless it is the current folder's.
    put(top.path());
    let of_home = put(&home);
    assert_eq!(find(&deep), None);
    assert_eq!(find(&home), Some(of_home));
    // The nearest, and none above the repository.
    let of_project = put(&home.join("repository"));
    assert_eq!(find(&deep), Some(of_project));
    std::fs::write(home.join("repository/below/.git"), "gitdir: elsewhere").unwrap();
    assert_eq!(find(&deep), None);
    let nearest = put(&home.join("repository/below"));
    assert_eq!(find(&deep), Some(nearest));
}

#[test]
fn a_shared_folder_is_no_project() {
    use std::os::unix::fs::PermissionsExt;
    let top = tempfile::tempdir().unwrap();
    let inner = top.path().join("mine");
    std::fs::create_dir(&inner).unwrap();
    let planted = top.path().join(FILE);
    std::fs::write(&planted, "").unwrap();
    assert_eq!(file::find(&inner, None), Some(planted.clone()));
    let shared = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(top.path(), shared).unwrap();
    assert_eq!(file::find(&inner, None), None);
    assert_eq!(file::find(top.path(), None), Some(planted));
}

#[test]
fn cluster_and_context_make_each_other_void() {
    let project = tempfile::tempdir().unwrap();
    std::fs::write(project.path().join(FILE), "cluster = \"dev\"").unwrap();
    let read = |vars: &[(&str, &str)]| {
        Config::read(&Env::new(vars.iter().copied()), project.path()).unwrap()
    };
    let names = |config: &Config| {
        let env = config.env(&Env::default());
        env.get("KIND_CLUSTER_NAME").map(str::to_owned)
    };
    let mut config = read(&[]);
    assert_eq!(names(&config).as_deref(), Some("dev"));
    assert_eq!(config.defaults().count(), 0, "the context must be checked");
    config.flag("kube-context", vec!["kind-x".into()]);
    assert_eq!(names(&config), None);
    assert_eq!(names(&read(&[("KINDLIFT_KUBE_CONTEXT", "kind-x")])), None);
    // What Skaffold deploys to is to be compared, not believed.
    let skaffolds = read(&[
        ("SKAFFOLD_KUBE_CONTEXT", "kind-x"),
        ("KINDLIFT_KUBE_CONTEXT", "y"),
    ]);
    assert_eq!(names(&skaffolds).as_deref(), Some("dev"));
    assert_eq!(skaffolds.get("kube-context").unwrap().parts, ["kind-x"]);
    let mut config = read(&[("SKAFFOLD_KUBE_CONTEXT", "kind-x")]);
    config.flag("cluster", vec!["other".into()]);
    assert_eq!(config.get("kube-context"), None);
}
