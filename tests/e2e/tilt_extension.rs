//! `kind_build`, the extension, loaded as a user loads it.

use rustix::process::Signal;

use crate::kube::Kube;
use crate::lab;
use crate::run;
use crate::tilt::built;
use crate::work::Work;

const APP: &str = "kindlift-demo-web";
const FOLDER: &str = "tilt-extension";

#[test]
fn a_base_image_a_live_update_and_a_new_image() {
    let kube = Kube::shared();
    let space = kube.namespace("ext");
    let work = Work::example(FOLDER);
    let mark = lab::unique("ext");
    let page = "tilt-extension/web/pages/index.html";
    work.write(page, &format!("{mark} 0<"));
    let mut up = run::start(&mut work.tilt(FOLDER, &space, &["up", "--stream"]));
    let first = space.serves_under(&mut up, APP, 1, &format!("{mark} 0<"));
    built(&mut up, 1);

    work.write(page, &format!("{mark} 1<"));
    let updated = space.serves_under(&mut up, APP, 1, &format!("{mark} 1<"));
    assert_eq!(
        updated[0].uid, first[0].uid,
        "the container was updated where it is"
    );
    assert_eq!(updated[0].image, first[0].image);

    work.write("tilt-extension/web/version.txt", "2\n");
    up.wait_until("a new pod", |_| {
        space
            .served(APP, 1, &format!("{mark} 1<"))
            .is_ok_and(|pods| pods[0].uid != first[0].uid)
    });
    let second = space.serves(APP, 1, &format!("{mark} 1<"));
    assert_ne!(second[0].image, first[0].image);

    // The base: what is built on it is built again.
    work.change(
        "tilt-extension/base/Dockerfile",
        "EXPOSE",
        "ENV BASE=2\nEXPOSE",
    );
    up.wait_until("a pod on the new base", |_| {
        space
            .served(APP, 1, &format!("{mark} 1<"))
            .is_ok_and(|pods| pods[0].image != second[0].image)
    });
    up.signal(Signal::TERM);
    up.finish();
}

/// What `tilt alpha tiltfile-result` says of a Tiltfile that calls kind_build with arguments.
fn result(arguments: &str) -> run::Run {
    let kube = Kube::shared();
    let space = kube.namespace("result");
    let work = Work::example(FOLDER);
    let call = std::fs::read_to_string(work.path("tilt-extension/Tiltfile")).unwrap();
    let head = call.split("kind_build(").next().unwrap();
    let text = format!("{head}kind_build({arguments})\nk8s_yaml('k8s.yaml')\n");
    work.write("tilt-extension/Tiltfile", &text);
    let mut tilt = work.program("tilt", FOLDER, &space);
    tilt.args(["alpha", "tiltfile-result", "-f", "Tiltfile"]);
    run::run(&mut tilt)
}

#[test]
fn arguments_become_flags() {
    let arguments = "'kindlift-demo/web', 'web', dockerfile='web/Dockerfile', engine='podman', \
         cluster='dev', platform='linux/amd64', target='last', build_args={'A': 'b c'}, \
         extra_flags=['--no-cache'], image_deps=[], ignore=['*.md']";
    let run = result(arguments);
    let json = run.clone().expect(0).json();
    let built = &json["Manifests"][0]["ImageTargets"][0]["BuildDetails"];
    let words: Vec<&str> = built["args"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|word| word.as_str())
        .collect();
    let expected = "kindlift build --tag kindlift-demo/web --ref-file .kindlift/kindlift-demo_web \
         --file web/Dockerfile --engine podman --cluster dev --platform linux/amd64 --target last \
         --build-arg";
    assert_eq!(words[..words.len() - 4].join(" "), expected, "{run}");
    assert_eq!(
        words[words.len() - 4..],
        ["A=b c", "web", "--", "--no-cache"],
        "{run}"
    );
}

#[test]
fn what_it_sets_itself_is_refused() {
    for (arguments, said) in [
        ("'x', '.', tag='y'", "kind_build sets 'tag' itself"),
        (
            "'x', '.', disable_push=True",
            "kind_build sets 'disable_push' itself",
        ),
        (
            "'x', '.', engine='nerdctl'",
            "engine is 'docker' or 'podman', not",
        ),
    ] {
        let run = result(arguments);
        assert!(run.to_string().contains(said), "{run}");
    }
}
