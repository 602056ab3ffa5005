//! Skaffold's variables where they do not fit together.

use crate::Sandbox;

#[test]
fn image_is_not_set() {
    let sandbox = Sandbox::new();
    let vars = [("PUSH_IMAGE", "false"), ("BUILD_CONTEXT", sandbox.path())];
    for image in [&[][..], &[("IMAGE", "")]] {
        sandbox.run_with(&["build"], &[&vars, image].concat()).is(
            2,
            "error: PUSH_IMAGE and BUILD_CONTEXT are set, but IMAGE is not\n  hint: Skaffold \
             sets all three for a custom builder; by hand, unset them and use --tag\n",
        );
    }
}

#[test]
fn image_is_shadowed() {
    let sandbox = Sandbox::new();
    let vars = [
        ("IMAGE", "mine:1"),
        ("PUSH_IMAGE", "false"),
        ("BUILD_CONTEXT", sandbox.path()),
        ("IMAGE_REPO", "demo/app"),
        ("IMAGE_TAG", "v2"),
    ];
    sandbox.run_with(&["build"], &vars).is(
        2,
        "error: IMAGE is mine:1, but IMAGE_REPO and IMAGE_TAG say demo/app:v2\n  hint: a variable \
         exported in your shell shadows Skaffold's: unset IMAGE, IMAGE_REPO and IMAGE_TAG before \
         you start Skaffold\n",
    );
}

#[test]
fn odd_values() {
    let sandbox = Sandbox::new();
    let with = |name: &str, value: &str| {
        let mut vars = vec![
            ("IMAGE", "app:1"),
            ("PUSH_IMAGE", "false"),
            ("BUILD_CONTEXT", sandbox.path()),
        ];
        vars.retain(|(other, _)| *other != name);
        vars.push((name, value));
        sandbox.run_with(&["build"], &vars)
    };
    with("PUSH_IMAGE", "yes").is(
        2,
        "error: PUSH_IMAGE is \"yes\"\n  hint: Skaffold sets it to true or false; unset your own\n",
    );
    with("IMAGE", "my app:1").is(
        2,
        "error: IMAGE cannot be used\n  caused by: `my app:1` is not an image name: it contains \
         ' '\n  hint: write it as [registry/]repository[:tag], the repository in lower case, e.g. \
         demo/app:dev\n",
    );
    with("PLATFORMS", "linux").is(
        2,
        "error: PLATFORMS is \"linux\"\n  caused by: `linux` is not a platform\n  hint: write it \
         as os/architecture[/variant], e.g. linux/arm64\n",
    );
    with("BUILD_CONTEXT", "/no/such/folder")
        .expect(2)
        .says("error: the context /no/such/folder is not a folder\n");
}

#[test]
fn a_tag_of_ones_own_is_refused() {
    let sandbox = Sandbox::new();
    let vars = [
        ("IMAGE", "app:1"),
        ("PUSH_IMAGE", "false"),
        ("BUILD_CONTEXT", sandbox.path()),
    ];
    sandbox
        .run_with(&["build", "--tag", "other:1"], &vars)
        .expect(2)
        .says("error: --tag says other:1, but Skaffold asks for app:1\n  hint: leave --tag out");
}

#[test]
fn image_alone_is_somebody_elses() {
    // Many people have a variable of that name.
    Sandbox::new()
        .run_with(&["build"], &[("IMAGE", "mine:1")])
        .expect(2)
        .says("error: the image has no name\n");
}
