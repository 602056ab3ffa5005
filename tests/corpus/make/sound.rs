//! Images that are as they should be, in all the forms in which tools write them.

use serde_json::{Value, json};
use tar::EntryType;

use super::{CONFIG, Files, GZIP, Image, Input, Layer, MANIFEST, RAW, ZSTD, architecture, member};

/// An archive or folder that must load.
pub struct Sound {
    pub what: &'static str,
    /// The image's name in it.
    pub name: String,
    pub input: Input,
}

/// Returns all of them. The images are named `repository:TAG`, each with a tag of its own; the salt
/// makes layers that no node has.
pub fn all(salt: &str, repository: &str) -> Vec<Sound> {
    let named = |what: &str| {
        format!(
            "{repository}:{}",
            what.replace([' ', ','], "-").replace(['.', '/'], "")
        )
    };
    let image =
        |what: &str, media_type| Image::new(&named(what), &format!("{salt} {what}"), media_type);
    let sound = |what, media_type, make: &dyn Fn(Image) -> Vec<u8>| Sound {
        what,
        name: named(what),
        input: Input::bytes(make(image(what, media_type))),
    };
    let raw = |what, make: &dyn Fn(Image) -> Vec<u8>| sound(what, RAW, make);
    let folder = "a folder";
    vec![
        Sound {
            what: folder,
            name: named(folder),
            input: image(folder, RAW).layout().folder(),
        },
        raw("raw layers", &|i| i.layout().tar()),
        sound("gzip", GZIP, &|i| i.layout().tar()),
        sound("zstd", ZSTD, &|i| i.layout().tar()),
        raw("as Docker before 25", &|i| i.docker().tar()),
        sound("as Docker before 25, gzip", GZIP, &|i| i.docker().tar()),
        raw("with all that Docker 25 writes", &|i| docker_25(&i).tar()),
        sound("media types of Docker", GZIP, &|i| schema2(&i).tar()),
        sound("one layer twice", GZIP, &|i| twice(i).layout().tar()),
        raw("one layer twice, as Docker before 25", &|i| {
            symlinked(twice(i))
        }),
        raw("an empty layer", &|i| with_empty_layer(i).layout().tar()),
        raw("paths with ./", &|i| dotted(&i.layout())),
        raw("long names of GNU", &|i| {
            long_names(&i.layout(), |path| member::long_name(path.as_bytes()))
        }),
        raw("long names of PAX", &|i| {
            long_names(&i.layout(), |path| member::pax("path", path))
        }),
        raw("a size of PAX", &|i| pax_sizes(&i.layout())),
        raw("padded to records", &|i| padded(i.layout().tar())),
        raw("one block of zeros at the end", &|i| {
            short_end(i.layout().tar())
        }),
        raw("nested indexes", &|i| nested(&i).tar()),
        raw("beside platforms that are not there", &|i| {
            platforms(&i).tar()
        }),
        raw("with an attestation", &|i| attested(&i).tar()),
        raw("beside an artifact", &|i| beside_artifact(&i).tar()),
        raw("without an oci-layout file", &|i| {
            without(i.layout(), "oci-layout").tar()
        }),
    ]
}

fn schema2(image: &Image) -> Files {
    let mut files = Files::default();
    let config = files.blob(
        "application/vnd.docker.container.image.v1+json",
        &image.config,
    );
    let layers: Vec<Value> = image
        .layers
        .iter()
        .map(|layer| {
            files.raw_blob(
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                &layer.blob,
            )
        })
        .collect();
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = files.blob(
        media_type,
        &json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}),
    );
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let mut manifest = manifest;
    manifest["platform"] = json!({"os": "linux", "architecture": architecture()});
    let mut top = files.blob(
        list,
        &json!({"schemaVersion": 2, "mediaType": list, "manifests": [manifest]}),
    );
    top["annotations"] = json!({"io.containerd.image.name": image.name});
    files.finish(&[top]);
    files
}

fn twice(image: Image) -> Image {
    let [one, two, _] = image.layers.try_into().ok().unwrap();
    Image::of(&image.name, vec![one.clone(), two, one])
}

/// The second time, Docker before 25 writes a link.
fn symlinked(image: Image) -> Vec<u8> {
    let mut files = image.docker();
    let (first, again) = (files.0[1].0.clone(), files.0[3].0.clone());
    files.remove(&again);
    let mut members = files.members();
    members.push(member::empty(
        &again,
        EntryType::Symlink,
        &format!("../{first}"),
    ));
    member::whole(&members)
}

fn with_empty_layer(mut image: Image) -> Image {
    image.layers.push(Layer::of(RAW, &[0; 1024]));
    Image::of(&image.name, image.layers)
}

fn dotted(files: &Files) -> Vec<u8> {
    let mut members = vec![
        member::empty("./", EntryType::Directory, ""),
        member::empty("./blobs/", EntryType::Directory, ""),
    ];
    members.extend(
        files
            .0
            .iter()
            .map(|(path, bytes)| member::file(&format!("./{path}"), bytes)),
    );
    member::whole(&members)
}

fn long_names(files: &Files, long: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let members: Vec<Vec<u8>> = files
        .0
        .iter()
        .flat_map(|(path, bytes)| [long(path), member::file("short", bytes)])
        .collect();
    member::whole(&members)
}

/// The header says nothing of the size, as for files of more than 8 GB.
fn pax_sizes(files: &Files) -> Vec<u8> {
    let members: Vec<Vec<u8>> = files
        .0
        .iter()
        .flat_map(|(path, bytes)| {
            let header = member::header(path, EntryType::Regular, 0);
            [
                member::pax("size", &bytes.len().to_string()),
                member::member(&header, bytes),
            ]
        })
        .collect();
    member::whole(&members)
}

fn padded(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len().next_multiple_of(10_240), 0);
    tar
}

fn short_end(mut tar: Vec<u8>) -> Vec<u8> {
    tar.truncate(tar.len() - 512);
    tar
}

fn nested(image: &Image) -> Files {
    let mut files = Files::default();
    let mut top = image.blobs(&mut files);
    for _ in 0..3 {
        let index = json!({"schemaVersion": 2, "manifests": [top]});
        top = files.blob(super::INDEX, &index);
    }
    top["annotations"] = json!({"io.containerd.image.name": image.name});
    files.finish(&[top]);
    files
}

/// Puts manifests beside an image's own under one index that has its name.
fn under_index(image: &Image, others: impl Fn(&mut Files, &Value) -> Vec<Value>) -> Files {
    let mut files = Files::default();
    let mut ours = image.blobs(&mut files);
    ours["platform"] = json!({"os": "linux", "architecture": architecture()});
    let mut manifests = others(&mut files, &ours);
    manifests.push(ours);
    let index = json!({"schemaVersion": 2, "mediaType": super::INDEX, "manifests": manifests});
    let mut top = files.blob(super::INDEX, &index);
    top["annotations"] = json!({"io.containerd.image.name": image.name});
    files.finish(&[top]);
    files
}

fn platforms(image: &Image) -> Files {
    under_index(image, |_, _| {
        ["s390x", "riscv64"]
            .map(|architecture| {
                let digest = kindlift::image::Digest::of(architecture.as_bytes());
                json!({"mediaType": MANIFEST, "digest": digest, "size": 500,
                    "platform": {"os": "linux", "architecture": architecture}})
            })
            .to_vec()
    })
}

fn attested(image: &Image) -> Files {
    under_index(image, |files, ours| {
        let config = files.blob(CONFIG, &json!({"os": "unknown", "architecture": "unknown"}));
        let layer = files.raw_blob("application/vnd.in-toto+json", b"{}");
        let mut attestation = files.blob(
            MANIFEST,
            &json!({"schemaVersion": 2, "config": config, "layers": [layer]}),
        );
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": ours["digest"]});
        vec![attestation]
    })
}

fn beside_artifact(image: &Image) -> Files {
    under_index(image, |files, _| {
        let config = files.raw_blob("application/vnd.oci.empty.v1+json", b"{}");
        let layer = files.raw_blob("text/spdx", b"SPDXVersion: SPDX-2.3");
        vec![files.blob(
            MANIFEST,
            &json!({"schemaVersion": 2, "artifactType": "application/spdx", "config": config,
                "layers": [layer]}),
        )]
    })
}

fn without(mut files: Files, path: &str) -> Files {
    files.remove(path);
    files
}

/// A layout and Docker's manifest.json, which agree.
pub fn docker_25(image: &Image) -> Files {
    let mut files = image.layout();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", kindlift::image::Digest::of(bytes).hex());
    let config = image.config.to_string();
    let layers: Vec<String> = image.layers.iter().map(|layer| blob(&layer.blob)).collect();
    let name = image.name.trim_start_matches("docker.io/");
    let list = json!([{"Config": blob(config.as_bytes()), "RepoTags": [name], "Layers": layers}]);
    files.add("manifest.json", list.to_string().into_bytes());
    files.add("repositories", b"{}".to_vec());
    files
}
