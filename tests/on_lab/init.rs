//! What `init` writes, as the real Skaffold and Tilt read it.

use std::path::Path;
use std::process::Command;

use crate::lab;
use crate::run::{self, Run};

/// A program of the lab in a folder, with a home of its own.
fn by(program: &str, folder: &Path) -> Command {
    let mut command = lab::program(program);
    command
        .current_dir(folder)
        .env("HOME", folder.join(".home"));
    command
}

fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn init(folder: &Path, args: &[&str]) -> Run {
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(folder)
        .arg("init")
        .args(args)
        .arg("--yes");
    run::run(&mut kindlift).expect(0)
}

/// A project of two images: one at the top, one in a folder.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let deployment = |name: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  \
             selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: \
             {{app: {name}}}}}\n    spec:\n      containers:\n      - name: c\n        image: \
             shop/{name}\n"
        )
    };
    write(
        folder.path(),
        "Dockerfile.job",
        "FROM scratch\nCOPY k8s /k8s\n",
    );
    write(
        folder.path(),
        "web/Dockerfile",
        "FROM scratch\nCOPY Dockerfile /x\n",
    );
    write(folder.path(), "k8s/job.yaml", &deployment("job"));
    write(folder.path(), "k8s/web.yaml", &deployment("web"));
    folder
}

/// What Skaffold understands: the configuration with its defaults.
fn diagnosed(folder: &Path) -> serde_yaml::Value {
    let run = run::run(by("skaffold", folder).args(["diagnose", "--yaml-only"])).expect(0);
    serde_yaml::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}:\n{run}"))
}

/// What Tilt understands: the images of all resources, by their command's words.
fn evaluated(folder: &Path) -> Vec<(String, Vec<String>)> {
    let run =
        run::run(by("tilt", folder).args(["alpha", "tiltfile-result", "-f", "Tiltfile"])).expect(0);
    let result: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(result["Error"].is_null(), "{run}");
    let manifests = result["Manifests"]
        .as_array()
        .unwrap_or_else(|| panic!("{run}"));
    let targets = manifests
        .iter()
        .flat_map(|m| m["ImageTargets"].as_array().into_iter().flatten());
    targets
        .map(|target| {
            let details = &target["BuildDetails"];
            assert_eq!(details["outputMode"], "remote", "{target:#}");
            let words = details["args"].as_array().unwrap().iter();
            let words = words
                .map(|word| word.as_str().unwrap().to_owned())
                .collect();
            (target["selector"].as_str().unwrap().to_owned(), words)
        })
        .collect()
}

#[test]
fn skaffold_takes_a_new_file() {
    let folder = project();
    init(folder.path(), &["skaffold"]);
    let config = diagnosed(folder.path());
    assert_eq!(config["build"]["local"]["push"], false);
    let artifacts = config["build"]["artifacts"].as_sequence().unwrap();
    let commands: Vec<_> = artifacts
        .iter()
        .map(|artifact| (&artifact["image"], &artifact["custom"]["buildCommand"]))
        .map(|(image, command)| (image.as_str().unwrap(), command.as_str().unwrap()))
        .collect();
    assert_eq!(
        commands,
        [
            ("shop/job", "exec kindlift build --file Dockerfile.job"),
            ("shop/web", "exec kindlift build")
        ]
    );
    assert_eq!(config["test"].as_sequence().unwrap().len(), 2);
    // The other half of diagnose walks the dependencies that the file names.
    run::run(by("skaffold", folder.path()).arg("diagnose")).expect(0);
}

#[test]
fn skaffold_takes_files_that_were_added_to() {
    for version in ["v2beta13", "v2beta29", "v3", "v4beta13"] {
        let folder = project();
        let theirs = format!(
            "# ours\napiVersion: skaffold/{version}\nkind: Config\nbuild:\n  tagPolicy: \
             {{sha256: {{}}}}\n  artifacts:\n  - image: shop/web\n    context: web\n\nprofiles:\n- \
             name: ci\n"
        );
        write(folder.path(), "skaffold.yaml", &theirs);
        init(folder.path(), &["skaffold"]);
        let config = diagnosed(folder.path());
        assert_eq!(config["build"]["local"]["push"], false, "{version}");
        assert_eq!(
            config["test"][0]["custom"][0]["command"], "exec kindlift ensure",
            "{version}"
        );
    }
}

#[test]
fn tilt_takes_a_new_file() {
    let folder = project();
    init(folder.path(), &["tilt"]);
    let mut images = evaluated(folder.path());
    images.sort();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        images,
        [
            (
                "shop/job".to_owned(),
                words(
                    "kindlift build -t shop/job --ref-file .kindlift-ref-1 --file Dockerfile.job ."
                )
            ),
            (
                "shop/web".to_owned(),
                words("kindlift build -t shop/web --ref-file .kindlift-ref-2 web")
            ),
        ]
    );
}

#[test]
fn tilt_takes_a_docker_build_that_was_replaced() {
    let folder = project();
    let theirs = "load_paths = []\ndef build(name, args):\n    docker_build('shop/' + name, './' + \
                  name, # here\n        dockerfile='./%s/Dockerfile' % name, build_args=args,\n        \
                  live_update=[sync('web', '/src')])\nbuild('web', {'A': 'b'})\n\
                  k8s_yaml(['k8s/web.yaml'])\n";
    write(folder.path(), "Tiltfile", theirs);
    init(folder.path(), &["tilt", "--force"]);
    let words = "kindlift build -t shop/web --ref-file .kindlift-ref-shop-web --file ./web/Dockerfile \
                 --build-arg=A=b ./web";
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    assert_eq!(evaluated(folder.path()), [("shop/web".to_owned(), words)]);
}
