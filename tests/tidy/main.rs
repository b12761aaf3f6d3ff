//! The project's own rules, checked on its source text: which layer may know which, no clock,
//! socket or randomness in the sans-IO cores, `unsafe` in `ring` alone, no dead file, no attic
//! name, a header on every file, and sizes that only shrink. A failure names file, line and rule.
//! The rules are the tables at the top; `source` reads as much Rust as they need.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use source::{Kind, Source, fuzz_target, names_in, root, tree, with_test_files};

/// Modules of the crate by layer, lowest first. A module may use its own layer and those below; who
/// uses whom has no cycles, except that queues are where `control` and `driver` meet.
const LAYERS: &[&[&str]] = &[
    &["egress", "id", "limits", "metrics"],
    &["crypto", "dave", "rtp", "signalling", "webrtc"],
    &["ring", "sfu"],
    &["config", "control", "doctor", "driver", "grant", "load", "plan", "serve"],
];

/// Bytes, commands and time come in; bytes and events go out. Nothing here touches the world.
const CORES: &[&str] =
    &["crypto", "dave", "egress", "id", "limits", "metrics", "rtp", "sfu", "signalling", "webrtc"];

/// Files outside the cores that keep to the same: decisions and bytes of the drivers, apart from
/// their loops.
const CORE_FILES: &[&str] = &[
    "src/control/authority.rs",
    "src/control/backend.rs",
    "src/control/backlog.rs",
    "src/control/changes.rs",
    "src/control/directory.rs",
    "src/control/door.rs",
    "src/control/ledger.rs",
    "src/control/roster.rs",
    "src/control/spacebar/adapter.rs",
    "src/control/spacebar/event.rs",
    "src/control/spacebar/frame.rs",
    "src/control/spacebar/presence.rs",
    "src/control/spacebar/region.rs",
    "src/control/spacebar/row.rs",
    "src/control/throttle.rs",
    "src/driver/line.rs",
    "src/driver/wire.rs",
];

/// What would let a core touch the world. Tests of a core may read files and start a clock.
const FORBIDDEN_IN_CORES: &[&str] = &[
    "aws_lc_rs::rand",
    "getrandom",
    "libc",
    "rand",
    "socket2",
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::SystemTime",
];

/// Clock readings, however the type was imported.
const CLOCKS: &[[&str; 2]] = &[["Instant", "now"], ["SystemTime", "now"]];

/// Crates that only these parts of `src/` may name. Shard threads never run tokio; the server's
/// own thread waits for signals with it.
const CRATE_OWNERS: &[(&str, &[&str])] = &[
    ("axum", &["control/"]),
    ("deadpool_postgres", &["control/spacebar/"]),
    ("glommio", &["driver/"]),
    ("hyper", &["control/", "grant", "load/"]),
    ("hyper_util", &["control/", "grant", "load/"]),
    ("io_uring", &["ring/"]),
    ("lapin", &["control/spacebar/"]),
    ("tokio", &["control/", "grant", "load/", "serve"]),
    ("tokio_postgres", &["config/spacebar", "control/spacebar/"]),
    ("tokio_postgres_rustls", &["control/spacebar/"]),
    ("tokio_stream", &["control/"]),
];

/// Uses that the layers would allow and the design does not: who, whom, except through.
const FORBIDDEN_USES: &[(&str, &str, Option<&str>)] = &[
    ("ring", "crypto", None),
    ("ring", "rtp", None),
    ("ring", "sfu", None),
    ("ring", "signalling", None),
    ("sfu", "ring", None),
    ("load", "plan", None),
    ("control", "ring", None),
    ("control", "driver", Some("queues")),
];

/// Names that say nothing about what is inside.
const ATTIC_NAMES: &[&str] =
    &["common", "helper", "helpers", "misc", "shared", "types", "util", "utils"];

/// Longest file, lines.
const FILE_LINES_MAX: usize = 600;

/// Longest line, characters.
const LINE_CHARACTERS_MAX: usize = 100;

#[test]
fn modules_use_only_their_own_layer_and_those_below() {
    report(tree().iter().flat_map(layer_breaches));
}

#[test]
fn modules_do_not_use_each_other_in_a_circle() {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in tree() {
        let Some(module) = source.module() else { continue };
        for path in source.crate_paths() {
            let target = path.names[0].clone();
            let queues = target == "driver" && path.names.get(1).is_some_and(|it| it == "queues");
            if target != module && layer(&target).is_some() && !queues {
                uses.entry(module.clone()).or_default().insert(target);
            }
        }
    }
    assert_eq!(circle(&uses), None, "these modules own each other");
}

#[test]
fn cores_touch_no_clock_socket_file_thread_or_randomness() {
    let sources = tree();
    let gone = CORE_FILES
        .iter()
        .filter(|path| !sources.iter().any(|source| source.path == **path))
        .map(|path| format!("tests/tidy/main.rs:1: {path} is gone: take it off CORE_FILES"));
    report(sources.iter().flat_map(core_breaches).chain(gone));
}

#[test]
fn crates_are_named_only_by_their_owners() {
    report(tree().iter().flat_map(crate_breaches));
}

#[test]
fn unsafe_is_in_the_ring_alone() {
    report(tree().iter().flat_map(unsafe_breaches));
}

#[test]
fn every_file_is_part_of_a_build() {
    let sources = tree();
    let reached = reached(&sources);
    report(sources.iter().filter(|source| !reached.contains(&source.path)).map(|source| {
        format!("{}:1: no `mod` leads here: delete the file or declare it", source.path)
    }));
}

#[test]
fn every_fuzz_target_has_seeds_and_the_other_way_round() {
    let fuzz = root().join("tests/fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the manifest is there");
    let targets: BTreeSet<_> = manifest.lines().filter_map(fuzz_target).collect();
    let seeds: BTreeSet<_> = names_in(&fuzz.join("seeds")).collect();
    assert!(!targets.is_empty(), "tests/fuzz/Cargo.toml names no target");
    assert_eq!(targets, seeds, "targets of tests/fuzz/Cargo.toml (left), tests/fuzz/seeds (right)");
    for target in targets {
        let count = names_in(&fuzz.join("seeds").join(&target)).count();
        assert!(count > 0, "tests/fuzz/seeds/{target} is empty");
    }
}

#[test]
fn no_file_is_an_attic() {
    report(tree().iter().filter_map(|source| {
        let attic = source.components().find(|name| ATTIC_NAMES.contains(name))?;
        Some(format!("{}:1: `{attic}` says nothing: name the noun inside", source.path))
    }));
}

#[test]
fn every_file_says_what_it_is_for() {
    report(tree().iter().filter(|source| !source.text.starts_with("//! ")).map(|source| {
        format!("{}:1: begin with `//!`: what it owns, what it does not, who calls it", source.path)
    }));
}

#[test]
fn nothing_is_left_to_do() {
    report(tree().iter().flat_map(unfinished));
}

#[test]
fn no_file_is_long() {
    report(tree().iter().filter_map(length_breach));
}

/// rustfmt sees to code; comments it leaves alone, and nobody can break a string or an address.
#[test]
fn lines_fit_on_the_screen() {
    report(tree().iter().flat_map(|source| {
        let long = source.text.lines().enumerate().filter(|(_, line)| {
            let free = !line.trim_start().starts_with("//") && line.contains('"');
            line.chars().count() > LINE_CHARACTERS_MAX && !free
        });
        let long = long.filter(|(_, line)| !line.contains("://"));
        long.map(|(index, line)| {
            let (path, count) = (&source.path, line.chars().count());
            format!("{path}:{}: {count} characters, above {LINE_CHARACTERS_MAX}", index + 1)
        })
    }));
}

fn report(breaches: impl Iterator<Item = String>) {
    let mut breaches: Vec<_> = breaches.collect();
    breaches.dedup();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

// The rules that are more than a filter.

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn layer_breaches(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some(own) = layer(&module) else {
        return vec![format!("{}:1: give `{module}` a layer in tests/tidy.rs", source.path)];
    };
    let mut breaches = Vec::new();
    for path in source.crate_paths() {
        let target = path.names[0].as_str();
        let Some(theirs) = layer(target) else { continue };
        let through = path.names.get(1).map(String::as_str);
        let forbidden = FORBIDDEN_USES.iter().any(|&(who, whom, except)| {
            who == module && whom == target && (except.is_none() || except != through)
        });
        if theirs > own || forbidden {
            let (file, line) = (&source.path, path.line);
            breaches.push(format!("{file}:{line}: `{module}` may not use `{target}`"));
        }
    }
    breaches
}

fn core_breaches(source: &Source) -> Vec<String> {
    let module = source.module().filter(|it| CORES.contains(&it.as_str()));
    let listed = CORE_FILES.contains(&source.path.as_str()).then(|| source.path.clone());
    let Some(core) = module.or(listed) else { return Vec::new() };
    let breaches = source.paths().into_iter().filter(|path| !path.in_tests).filter_map(|path| {
        let clock = CLOCKS.iter().any(|clock| path.names.windows(2).any(|two| two == clock));
        let forbidden = FORBIDDEN_IN_CORES.iter().any(|prefix| path.begins_in(prefix));
        (clock || forbidden).then(|| {
            let (file, line, name) = (&source.path, path.line, path.names.join("::"));
            format!("{file}:{line}: `{core}` is sans-IO and may not use `{name}`")
        })
    });
    breaches.collect()
}

fn crate_breaches(source: &Source) -> Vec<String> {
    let Some(part) = source.path.strip_prefix("src/") else { return Vec::new() };
    let breaches = source.paths().into_iter().filter_map(|path| {
        let (name, owners) = CRATE_OWNERS.iter().find(|(name, _)| path.begins_in(name))?;
        let (file, line) = (&source.path, path.line);
        (!owners.iter().any(|owner| part.starts_with(owner)))
            .then(|| format!("{file}:{line}: `{name}` is for {}", owners.join(", ")))
    });
    breaches.collect()
}

fn unsafe_breaches(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || source.path.starts_with("src/ring/") {
        return Vec::new();
    }
    let breaches = source.tokens.windows(3).filter_map(|tokens| {
        let opening = match &tokens[0].kind {
            Kind::Name(name) if name == "unsafe" => true,
            // `allow(unsafe_code)` is the door to it.
            Kind::Name(name) if name == "allow" || name == "expect" => {
                tokens[2].kind == Kind::Name("unsafe_code".into())
            }
            _ => false,
        };
        let (file, line) = (&source.path, tokens[0].line);
        opening.then(|| format!("{file}:{line}: `unsafe` is for src/ring alone"))
    });
    breaches.collect()
}

fn unfinished(source: &Source) -> Vec<String> {
    let breaches = source.tokens.windows(2).filter_map(|tokens| {
        let Kind::Name(name) = &tokens[0].kind else { return None };
        let (file, line) = (&source.path, tokens[0].line);
        let open = matches!(name.as_str(), "todo" | "unimplemented");
        (open && tokens[1].kind == Kind::Mark('!'))
            .then(|| format!("{file}:{line}: `{name}!` is no code"))
    });
    breaches.collect()
}

fn length_breach(source: &Source) -> Option<String> {
    let (path, lines) = (&source.path, source.text.lines().count());
    (lines > FILE_LINES_MAX).then(|| {
        format!(
            "{path}:{lines}: {lines} lines, above {FILE_LINES_MAX}: which second noun moved in?"
        )
    })
}

/// A circle in the graph, if there is one: each name uses the next, the last uses the first.
fn circle(uses: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        module: &String,
        uses: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|visited| visited == module) {
            return Some(way[start..].to_vec());
        }
        if !done.insert(module.clone()) {
            return None;
        }
        way.push(module.clone());
        let found =
            uses.get(module).into_iter().flatten().find_map(|next| visit(next, uses, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|module| visit(module, uses, &mut Vec::new(), &mut done))
}

/// Every file that some build of the repository compiles.
fn reached(sources: &[Source]) -> BTreeSet<String> {
    let by_path: BTreeMap<_, _> =
        sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let mut waiting: Vec<&Source> = sources.iter().filter(|source| source.is_root()).collect();
    let mut reached = BTreeSet::new();
    while let Some(source) = waiting.pop() {
        if reached.insert(source.path.clone()) {
            let children = source.children();
            waiting.extend(
                children.iter().filter_map(|child| by_path.get(child.path.as_str()).copied()),
            );
        }
    }
    reached
}

// The rules bite.

fn source(path: &str, text: &str) -> Source {
    Source::new(path, text)
}

#[test]
fn a_layer_breach_is_named_with_its_line() {
    let upward = source("src/rtp/demux.rs", "//! x\nuse crate::{id::Ssrc, sfu::{Shard, Event}};\n");
    assert_eq!(
        layer_breaches(&upward),
        [
            "src/rtp/demux.rs:2: `rtp` may not use `sfu`",
            "src/rtp/demux.rs:2: `rtp` may not use `sfu`",
        ]
    );
    let inline = source("src/ring/mod.rs", "fn f() { crate::sfu::f() }");
    assert_eq!(layer_breaches(&inline).len(), 1);
    let relative = source("src/egress.rs", "use super::driver::queues;");
    assert_eq!(layer_breaches(&relative).len(), 1);
    let downward = source("src/sfu/shard.rs", "use crate::rtp::Kind; use super::channel;");
    assert!(layer_breaches(&downward).is_empty());
    assert_eq!(layer_breaches(&source("src/attic.rs", "")).len(), 1);
}

#[test]
fn control_meets_the_driver_in_queues_only() {
    let queues = source("src/control/api.rs", "use crate::driver::queues::{ToShard, News};");
    assert!(layer_breaches(&queues).is_empty());
    let more = source("src/control/api.rs", "use crate::driver::{queues, shard};");
    assert_eq!(layer_breaches(&more), ["src/control/api.rs:1: `control` may not use `driver`"]);
}

#[test]
fn a_circle_is_found_and_a_line_is_not() {
    let graph = |edges: &[(&str, &str)]| {
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            uses.entry(from.to_string()).or_default().insert(to.to_string());
        }
        uses
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let round = graph(&[("a", "b"), ("b", "c"), ("c", "b")]);
    assert_eq!(circle(&round), Some(vec!["b".into(), "c".into()]));
}

#[test]
fn a_core_that_touches_the_world_is_named_and_its_tests_are_not() {
    for touch in [
        "use std::{collections::BTreeMap, fs};",
        "use std::net::{IpAddr, UdpSocket};",
        "fn f() { std::thread::sleep(x) }",
        "fn f() { let now = Instant::now(); }",
        "fn f() { std::time::SystemTime::now() }",
        "use rand::Rng;",
    ] {
        assert_eq!(core_breaches(&source("src/sfu/x.rs", touch)).len(), 1, "{touch}");
        assert_eq!(core_breaches(&source("src/driver/x.rs", touch)).len(), 0, "{touch}");
        assert_eq!(core_breaches(&source(CORE_FILES[0], touch)).len(), 1, "{touch}");
        let parent = source("src/sfu/mod.rs", "#[cfg(test)] pub(crate) mod x;");
        let files = with_test_files(vec![parent, source("src/sfu/x.rs", touch)]);
        assert_eq!(files.iter().flat_map(core_breaches).count(), 0, "{touch}");
        let in_tests = format!("#[cfg(test)] mod tests {{ {touch} }}");
        assert_eq!(core_breaches(&source("src/sfu/x.rs", &in_tests)).len(), 0, "{touch}");
        let after_tests = format!("#[cfg(test)] mod tests {{ fn f() {{}} }} {touch}");
        assert_eq!(core_breaches(&source("src/sfu/x.rs", &after_tests)).len(), 1, "{touch}");
    }
    let innocent =
        "use std::net::{IpAddr, SocketAddr};\n// std::fs\nfn f(rand: u32, now: Instant) {}";
    assert!(core_breaches(&source("src/rtp/x.rs", innocent)).is_empty());
}

#[test]
fn a_crate_in_foreign_hands_is_named_even_in_tests() {
    let tests = "#[cfg(test)] mod tests { use glommio::LocalExecutor; }";
    assert_eq!(crate_breaches(&source("src/control/api.rs", tests)).len(), 1);
    assert!(crate_breaches(&source("src/driver/shard.rs", tests)).is_empty());
    assert_eq!(crate_breaches(&source("src/sfu/x.rs", "#[tokio::test] fn f() {}")).len(), 1);
    assert_eq!(crate_breaches(&source("src/driver/x.rs", "use tokio::net;")).len(), 1);
    assert!(crate_breaches(&source("src/serve.rs", "use tokio::signal;")).is_empty());
}

#[test]
fn unsafe_outside_the_ring_is_named() {
    for text in ["unsafe { f() }", "unsafe fn f() {}", "#![allow(unsafe_code)] fn f() {}"] {
        assert_eq!(unsafe_breaches(&source("src/sfu/x.rs", text)).len(), 1, "{text}");
        assert!(unsafe_breaches(&source("src/ring/x.rs", text)).is_empty(), "{text}");
    }
    let innocent = "#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe { }\";";
    assert!(unsafe_breaches(&source("src/lib.rs", innocent)).is_empty());
}

#[test]
fn unfinished_code_is_named_and_talk_of_it_is_not() {
    let text = "//! todo!()\nfn f() {\n    todo!()\n}\nfn g() { let todo = \"todo!()\"; }";
    assert_eq!(unfinished(&source("src/a.rs", text)), ["src/a.rs:3: `todo!` is no code"]);
}

#[test]
fn a_file_that_no_mod_line_reaches_is_dead() {
    let sources = [
        source("src/lib.rs", "pub mod a; mod b { }"),
        source("src/a.rs", "mod c; #[cfg(test)] #[path = \"a_tests.rs\"] mod tests;"),
        source("src/a/c.rs", ""),
        source("src/a_tests.rs", ""),
        source("src/b.rs", ""),
        source("tests/x.rs", "mod y; include!(\"z/raw.rs\");"),
        source("tests/y/mod.rs", "mod deep;"),
        source("tests/y/deep.rs", ""),
        source("tests/z/raw.rs", ""),
        source("tests/z/dead.rs", ""),
    ];
    let reached = reached(&sources);
    let dead: Vec<_> =
        sources.iter().map(|it| &it.path).filter(|it| !reached.contains(*it)).collect();
    assert_eq!(dead, ["src/b.rs", "tests/z/dead.rs"]);
}

#[test]
fn a_file_may_be_as_long_as_the_limit_and_no_longer() {
    let lines = |count| source("src/a.rs", &"//! x\n".repeat(count));
    assert_eq!(length_breach(&lines(FILE_LINES_MAX)), None);
    assert!(length_breach(&lines(FILE_LINES_MAX + 1)).is_some());
}
