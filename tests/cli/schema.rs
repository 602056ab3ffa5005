//! docs/schema.json: what is documented is what is written. Every document that a test of any suite
//! reads is compared with it (`Run::json`); here is what makes that comparison worth something.

use serde_json::{Value, json};

use crate::Sandbox;
use crate::run::schema;
use crate::texts;

fn kind(args: &[&str], code: i32) -> &'static str {
    let sandbox = Sandbox::new();
    sandbox.write(
        "k8s.yaml",
        "kind: Pod\nspec: {containers: [{image: app}]}\n",
    );
    let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
    schema::kind(&sandbox.run(&args).expect(code).json()).unwrap()
}

/// Those that need engines and nodes are in `on_lab`: images, exported, pruned.
#[test]
fn documents_are_of_the_kind_that_the_schema_says() {
    assert_eq!(kind(&["lint", "k8s.yaml"], 10), "linted");
    assert_eq!(kind(&["doctor"], 4), "diagnosis");
    assert_eq!(kind(&["init", "skaffold", "--yes"], 0), "initiated");
    assert_eq!(kind(&["config", "show", "--nodes", "a,b"], 0), "settings");
    assert_eq!(kind(&["help", "exit-codes"], 0), "page");
    assert_eq!(kind(&["completions", "fish"], 0), "page");
    for (args, code) in [
        (&["build", "-t", "my app"] as &[&str], 2),
        (&["load", "--no-such-flag"], 2),
        (&["load", "app:1"], 4),
        (&["load", "./none.tar", "--cluster", "x"], 5),
        (&["lint", "none.yaml"], 2),
    ] {
        assert_eq!(kind(args, code), "failed", "{args:?}");
    }
}

/// A place in a document, and what is done to it.
type Damage = (&'static str, fn(&mut Value));

#[test]
fn what_is_not_documented_is_found() {
    let sandbox = Sandbox::new();
    let sound = sandbox
        .run(&["doctor", "--output", "json"])
        .expect(4)
        .json();
    let damages: [Damage; 5] = [
        ("a field on top", |doc| doc["seconds"] = json!(1)),
        ("a field below", |doc| {
            doc["checks"][0]["colour"] = json!("red")
        }),
        ("a field that is gone", |doc| {
            doc["checks"][0].as_object_mut().unwrap().remove("fix");
        }),
        ("another type", |doc| doc["ok"] = json!("false")),
        ("a new word", |doc| {
            doc["checks"][0]["verdict"] = json!("perhaps")
        }),
    ];
    for (what, damage) in damages {
        let mut document = sound.clone();
        damage(&mut document);
        let wrong = schema::kind(&document).expect_err(what);
        assert!(wrong.starts_with("diagnosis"), "{what}: {wrong}");
    }
}

/// The documents that the pages show, with the digests that they leave out.
#[test]
fn the_pages_show_documents_that_are_sound() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let mut kinds = Vec::new();
    for text in texts::all() {
        for block in text.blocks(&["json"]) {
            let whole = block.text.replace("sha256:…", &digest);
            let document: Value = serde_json::from_str(&whole)
                .unwrap_or_else(|e| panic!("{}: {e}:\n{whole}", block.place));
            let kind = schema::kind(&document);
            kinds.push(kind.unwrap_or_else(|wrong| panic!("{}: {wrong}", block.place)));
        }
    }
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["diagnosis", "exported", "failed", "images", "linted"]
    );
}
