//! `Tiltfile`. A new one has a `custom_build` for each Dockerfile; in an existing one, a
//! `docker_build` can be replaced by one.

use super::folder::Folder;
use super::starlark::{Call, calls, literal, string};
use super::{Artifact, InitRequest, Plan, manifests};
use crate::error::{Error, Result};

const FILE: &str = "Tiltfile";
/// Where kindlift writes the name to deploy; with a number, where there are several.
const REF_FILE: &str = ".kindlift-ref";

/// Arguments that mean the same to both kinds of builds.
const KEPT: [&str; 4] = [
    "live_update",
    "entrypoint",
    "container_args",
    "match_in_env_vars",
];

/// Plans a Tiltfile, manifests where there are none, and that ref files stay out of images and
/// of git.
///
/// # Errors
/// Usage error, if what is there cannot be changed.
pub fn plan(plan: &mut Plan, folder: &Folder, request: &InitRequest) -> Result<()> {
    let mut ignored = Vec::new();
    if plan.folder.join(FILE).exists() {
        plan.edit(FILE, |old| {
            let old = old.unwrap_or_default();
            replace(old, folder, request, &mut ignored)
        })?;
    } else {
        let artifacts = folder.artifacts(&request.images)?;
        let writes_manifests = !folder.deploys();
        ignored.extend(artifacts.iter().filter_map(ignore_file));
        plan.edit(FILE, |_| Ok(write(&artifacts, folder, writes_manifests)))?;
        if writes_manifests {
            plan.edit("k8s.yaml", |_| Ok(manifests(&artifacts, folder)))?;
        }
    }
    let changes = plan
        .files
        .iter()
        .any(|edit| edit.old.as_ref() != Some(&edit.new));
    if !changes {
        return Ok(());
    }
    ignored.sort();
    ignored.dedup();
    for name in ignored {
        plan.edit(name, |old| Ok(with_line(old)))?;
    }
    let is_git = plan
        .folder
        .ancestors()
        .any(|folder| folder.join(".git").exists());
    if is_git || plan.folder.join(".gitignore").exists() {
        plan.edit(".gitignore", |old| Ok(with_line(old)))?;
    }
    plan.notes
        .push("tilt up, with a kube context of a Kind cluster".to_owned());
    Ok(())
}

/// Returns the file that keeps the ref file out of an image, if its context has it.
fn ignore_file(artifact: &Artifact) -> Option<String> {
    (artifact.context() == std::path::Path::new(".")).then(|| match artifact.odd_name() {
        // Such a file counts instead of .dockerignore, where it exists.
        Some(name) => format!("{name}.dockerignore"),
        None => ".dockerignore".to_owned(),
    })
}

/// Adds the line that leaves ref files out.
fn with_line(old: Option<&str>) -> String {
    let old = old.unwrap_or_default();
    let line = format!("{REF_FILE}*");
    if old.lines().any(|other| other.trim() == line) {
        return old.to_owned();
    }
    let gap = if old.is_empty() || old.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{old}{gap}{line}\n")
}

fn ref_file(i: usize, of: usize) -> String {
    if of == 1 {
        REF_FILE.to_owned()
    } else {
        format!("{REF_FILE}-{}", i + 1)
    }
}

/// Writes a new file.
fn write(artifacts: &[Artifact], folder: &Folder, writes_manifests: bool) -> String {
    let mut text = String::from("# kindlift builds, loads and proves; Tilt deploys.\n");
    for (i, artifact) in artifacts.iter().enumerate() {
        text += &builder(artifact, &string(&ref_file(i, artifacts.len())));
        text += "\n";
    }
    text.push('\n');
    let plain = folder
        .plain()
        .map(|manifest| manifest.path.display().to_string());
    let paths: Vec<String> = match writes_manifests {
        true => vec![string("k8s.yaml")],
        false => plain.map(|path| string(&path)).collect(),
    };
    if !paths.is_empty() {
        text += &format!("k8s_yaml([{}])\n", paths.join(", "));
    }
    for path in &folder.kustomizations {
        text += &format!(
            "k8s_yaml(kustomize({}))\n",
            string(&format!("./{}", path.display()))
        );
    }
    for path in &folder.charts {
        text += &format!(
            "k8s_yaml(helm({}))\n",
            string(&format!("./{}", path.display()))
        );
    }
    text
}

fn builder(artifact: &Artifact, ref_file: &str) -> String {
    let context = string(&artifact.context().to_string_lossy());
    let mut command = Vec::new();
    if artifact.odd_name().is_some() {
        command.extend([
            "'--file'".to_owned(),
            string(&artifact.dockerfile.to_string_lossy()),
        ]);
    }
    custom_build(
        &string(&artifact.image),
        &context,
        &command,
        "",
        &[],
        ref_file,
        "",
    )
}

/// Writes a call. What is passed is Starlark already.
fn custom_build(
    image: &str,
    context: &str,
    flags: &[String],
    more_flags: &str,
    kept: &[(String, String)],
    ref_file: &str,
    indent: &str,
) -> String {
    let flags: String = flags.iter().map(|flag| format!(", {flag}")).collect();
    let mut lines = vec![
        format!("{image},"),
        format!(
            "['kindlift', 'build', '-t', {image}, '--ref-file', {ref_file}{flags}]{more_flags} + [{context}],"
        ),
        format!("deps=[{context}],"),
        format!("ignore=[{ref_file}],"),
        "skips_local_docker=True,".to_owned(),
        format!("outputs_image_ref_to={ref_file},"),
    ];
    if more_flags.is_empty() {
        lines[1] = format!(
            "['kindlift', 'build', '-t', {image}, '--ref-file', {ref_file}{flags}, {context}],"
        );
    }
    lines.extend(kept.iter().map(|(name, value)| format!("{name}={value},")));
    let body: String = lines
        .iter()
        .map(|line| format!("{indent}    {line}\n"))
        .collect();
    format!("custom_build(\n{body}{indent})")
}

/// Changes an existing file: each `docker_build` to a `custom_build`, or what it does not build
/// yet behind its end.
fn replace(
    old: &str,
    folder: &Folder,
    request: &InitRequest,
    ignored: &mut Vec<String>,
) -> Result<String> {
    let found = calls(old, "docker_build");
    let builds_already = calls(old, "custom_build")
        .iter()
        .any(|call| old[call.span.clone()].contains("kindlift"));
    if found.is_empty() {
        if builds_already {
            return Ok(old.to_owned());
        }
        return add(old, folder, request, ignored);
    }
    if !request.force {
        let call = &found[0];
        return Err(Error::usage(format!(
            "{FILE}:{} builds {} with docker_build",
            call.line,
            call.argument(0, "ref").unwrap_or("an image")
        ))
        .hint("--force puts a custom_build in its place, and shows it before"));
    }
    let mut new = old.to_owned();
    for (i, call) in found.iter().enumerate().rev() {
        // Ref files of an earlier run keep their names.
        let image = call.argument(0, "ref").unwrap_or_default();
        let ref_file = match (literal(image), found.len(), builds_already) {
            // In a function or a loop, one call makes several images.
            (None, ..) => format!("'{REF_FILE}-' + ({image}).replace('/', '-').replace(':', '-')"),
            (Some(_), 1, false) => string(REF_FILE),
            (Some(_), ..) => string(&format!(
                "{REF_FILE}-{}",
                old.matches(REF_FILE).count() + i + 1
            )),
        };
        let start = call.span.start;
        let line = &old[old[..start].rfind('\n').map_or(0, |at| at + 1)..start];
        let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
        new.replace_range(call.span.clone(), &convert(call, &ref_file, &indent)?);
        let context = call.argument(1, "context").and_then(literal);
        if !context.is_some_and(|context| !matches!(context, "." | "./")) {
            let dockerfile = call.argument(usize::MAX, "dockerfile").and_then(literal);
            let dockerfile = dockerfile.unwrap_or("Dockerfile").trim_start_matches("./");
            let artifact = Artifact {
                image: String::new(),
                dockerfile: dockerfile.into(),
            };
            ignored.push(ignore_file(&artifact).unwrap_or_else(|| ".dockerignore".to_owned()));
        }
    }
    Ok(new)
}

/// Adds the images that an existing file does not build.
fn add(
    old: &str,
    folder: &Folder,
    request: &InitRequest,
    ignored: &mut Vec<String>,
) -> Result<String> {
    let artifacts = folder.artifacts(&request.images)?;
    let gap = if old.is_empty() || old.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let mut new = format!("{old}{gap}\n# kindlift builds, loads and proves; Tilt deploys.\n");
    for (i, artifact) in artifacts.iter().enumerate() {
        if old.contains(&artifact.image) {
            return Err(Error::usage(format!(
                "{FILE} speaks of {}, but not in a docker_build",
                artifact.image
            ))
            .hint("`kindlift help tilt` shows a custom_build to put there by hand"));
        }
        ignored.extend(ignore_file(artifact));
        new += &builder(artifact, &string(&ref_file(i, artifacts.len())));
        new.push('\n');
    }
    Ok(new)
}

fn convert(call: &Call, ref_file: &str, indent: &str) -> Result<String> {
    let cannot = |what: &str| {
        Error::usage(format!("{FILE}:{}: docker_build has {what}", call.line)).hint(
            "that has no counterpart in custom_build: `kindlift help tilt` shows one to write by \
             hand",
        )
    };
    let (Some(image), Some(context)) = (call.argument(0, "ref"), call.argument(1, "context"))
    else {
        return Err(cannot("no context"));
    };
    if let Some(other) = call.positional.get(2).or_else(|| {
        call.positional
            .iter()
            .find(|argument| argument.starts_with('*'))
    }) {
        return Err(cannot(other));
    }
    let (mut flags, mut more, mut kept) = (Vec::new(), String::new(), Vec::new());
    for (name, value) in &call.named {
        match name.as_str() {
            "ref" | "context" => {}
            "dockerfile" => flags.extend(["'--file'".to_owned(), value.clone()]),
            "target" => flags.extend(["'--target'".to_owned(), value.clone()]),
            "platform" => flags.extend(["'--platform'".to_owned(), value.clone()]),
            "build_args" => {
                more = format!(" + ['--build-arg=%s=%s' % pair for pair in ({value}).items()]");
            }
            name if KEPT.contains(&name) => kept.push((name.to_owned(), value.clone())),
            name => return Err(cannot(name)),
        }
    }
    Ok(custom_build(
        image, context, &flags, &more, &kept, ref_file, indent,
    ))
}
