//! Archives as Docker before 25 writes them, and folders.

use serde_json::{Value, json};
use tar::EntryType;

use super::super::member;
use super::super::{Files, GZIP, Image, Node, RAW};
use super::{Kind, files, kind, tar};

pub(super) fn all(salt: &str, name: &str) -> Vec<Kind> {
    let image =
        |media_type, which: &str| Image::new(name, &format!("{salt} docker {which}"), media_type);
    let sound = image(RAW, "sound").docker();
    let (config, layer) = (sound.0[0].0.clone(), sound.0[2].0.clone());
    let listed = |edit: fn(&mut Value)| {
        let mut files = sound.clone();
        let list = files.get("manifest.json");
        let mut value: Value = serde_json::from_slice(list).unwrap();
        edit(&mut value);
        *list = value.to_string().into_bytes();
        files
    };
    let without = |path: &str| {
        let mut files = sound.clone();
        files.remove(path);
        files
    };
    let linked = |target: &str| {
        let members = [
            without(&layer).members(),
            vec![member::empty(&layer, EntryType::Symlink, target)],
        ];
        member::whole(&members.concat())
    };
    let mut kinds = vec![
        files("a list that is no JSON", "manifest.json cannot be read", &{
            let mut files = sound.clone();
            *files.get("manifest.json") = b"[{".to_vec();
            files
        }),
        files(
            "a list of nothing",
            "it holds no image",
            &listed(|list| *list = json!([])),
        ),
        files(
            "a list of layers that is none",
            "manifest.json cannot be read",
            &listed(|list| list[0]["Layers"] = json!("layer.tar")),
        ),
        files(
            "a list without a config",
            "manifest.json cannot be read",
            &listed(|list| drop(list[0].as_object_mut().unwrap().remove("Config"))),
        ),
        files(
            "a list that leads out",
            "\"../../etc/passwd\" leads out of the archive",
            &listed(|list| list[0]["Layers"][1] = json!("../../etc/passwd")),
        ),
        files(
            "a list that leads to the root",
            "\"/etc/passwd\" leads out of the archive",
            &listed(|list| list[0]["Config"] = json!("/etc/passwd")),
        ),
        files(
            "a list with one layer less",
            "there are 2 layers, the config has 3",
            &listed(|list| drop(list[0]["Layers"].as_array_mut().unwrap().pop())),
        ),
        files(
            "Docker's config is missing",
            ".json is missing",
            &without(&config),
        ),
        files(
            "Docker's layer is missing",
            "layer.tar is missing",
            &without(&layer),
        ),
        files("Docker's config was changed", "the content of ", &{
            let mut files = sound.clone();
            *files.get(&config).last_mut().unwrap() = b' ';
            files
        }),
        files("Docker's layer was changed", "layer 2 is damaged", &{
            let mut files = sound.clone();
            files.get(&layer)[600] ^= 1;
            files
        }),
        files(
            "Docker's layers are out of order",
            " is damaged",
            &listed(|list| list[0]["Layers"].as_array_mut().unwrap().rotate_left(1)),
        ),
        files(
            "Docker's gzip layers are out of order",
            "the config's layer 2",
            &{
                let mut files = image(GZIP, "order").docker();
                let list = files.get("manifest.json");
                let mut value: Value = serde_json::from_slice(list).unwrap();
                value[0]["Layers"].as_array_mut().unwrap().rotate_left(1);
                *list = value.to_string().into_bytes();
                files
            },
        ),
        files(
            "Docker's image for another platform",
            "(it has: linux/s390x)",
            &image(RAW, "s390x")
                .config(|c| c["architecture"] = json!("s390x"))
                .docker(),
        ),
        tar(
            "a layer that links to itself",
            "is a link, not a file",
            linked("layer.tar"),
        ),
        tar(
            "a layer that links to nowhere",
            "is a link, not a file",
            linked("../gone/layer.tar"),
        ),
        tar(
            "a layer that links out",
            "is a link, not a file",
            linked("../../../../etc/passwd"),
        ),
    ];
    kinds.extend(folders(&image(RAW, "folder").layout(), &sound));
    kinds
}

fn folders(sound: &Files, docker: &Files) -> Vec<Kind> {
    let blob = sound.0[1].0.clone();
    let in_place = |node: Node| {
        let nodes = sound
            .0
            .iter()
            .map(|(path, bytes)| (path.clone(), Node::File(bytes.clone())));
        let mut nodes: Vec<_> = nodes.filter(|(path, _)| *path != blob).collect();
        nodes.push((blob.clone(), node));
        super::Input::Folder(nodes)
    };
    let mut out = docker.clone();
    let list = json!([{"Config": "../outside.json", "RepoTags": ["x:1"], "Layers": []}]);
    *out.get("manifest.json") = list.to_string().into_bytes();
    let mut missing = sound.clone();
    missing.remove(&blob);
    vec![
        kind(
            "an empty folder",
            "neither index.json nor manifest.json",
            super::Input::Folder(Vec::new()),
        ),
        kind(
            "a folder that lacks a layer",
            "layer 1 is not there",
            missing.folder(),
        ),
        kind(
            "a folder with a pipe for a layer",
            "is no file",
            in_place(Node::Pipe),
        ),
        kind(
            "a folder with a folder for a layer",
            "is no file",
            in_place(Node::Folder),
        ),
        kind(
            "a folder whose list leads out",
            "\"../outside.json\" leads out",
            out.folder(),
        ),
    ]
}
