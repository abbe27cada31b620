use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use undermesh_core::api::meta::Key;

use super::*;

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("undermesh-files-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("folder");
        fs::write(path, text).expect("file");
        self
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).expect("file");
    }

    fn source(&self) -> FilesSource {
        FilesSource::new(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

fn virtual_service(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{host}]\n  \
         http: [{{route: [{{destination: {{host: {host}}}}}]}}]\n"
    )
}

/// Names and ports of the services in force.
fn services(loaded: &Loaded) -> Vec<(String, u16)> {
    loaded
        .inputs
        .services
        .values()
        .map(|service| (service.meta.name.to_string(), service.spec.ports[0].number))
        .collect()
}

fn said(loaded: &Loaded) -> Vec<(Code, String, Option<u32>)> {
    let about = |said: &Diagnostic| (said.code, said.file.clone().unwrap_or_default(), said.line);
    loaded.diagnostics.iter().map(about).collect()
}

fn pairs(list: &[(&str, u16)]) -> Vec<(String, u16)> {
    list.iter().map(|&(name, port)| (name.to_owned(), port)).collect()
}

#[test]
fn a_folder_is_read_with_all_below_it() {
    let folder = Folder::new();
    folder
        .write("a.yaml", &format!("---\n# nothing\n---\n{}---\n{}", service("one", 1), service("two", 2)))
        .write("b/c.yml", &service("three", 3))
        .write(
            "b/d.json",
            r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service",
            "metadata":{"name":"four","annotations":{"x":"\ud83d\ude00"}},"spec":{"ports":[{"port":4}]}}]}"#,
        )
        .write(".hidden.yaml", &service("hidden", 1))
        .write(".git/x.yaml", &service("hidden", 1))
        .write("notes.txt", "not: yaml: at all");
    let loaded = folder.source().load();
    assert_eq!(said(&loaded), []);
    assert_eq!(services(&loaded), pairs(&[("four", 4), ("one", 1), ("three", 3), ("two", 2)]));
}

#[test]
fn a_broken_document_disturbs_nothing_else() {
    let folder = Folder::new();
    folder
        .write("a.yaml", &format!("{}---\nbroken: [\n---\n{}", service("one", 1), service("two", 2)))
        .write("b.yaml", &service("three", 3));
    let loaded = folder.source().load();
    assert_eq!(services(&loaded), pairs(&[("one", 1), ("three", 3), ("two", 2)]));
    let [diagnostic] = loaded.diagnostics.as_slice() else { panic!("{:?}", loaded.diagnostics) };
    assert_eq!((diagnostic.code, diagnostic.file.as_deref()), (Code::Syntax, Some("a.yaml")));
    assert!((6..=8).contains(&diagnostic.line.expect("a line")), "{diagnostic}");
}

#[test]
fn a_refused_object_keeps_its_last_good_version() {
    let folder = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", virtual_service("x", "old"), virtual_service("z", "z")));
    let mut source = folder.source();
    assert_eq!(source.load().inputs.virtual_services.len(), 2);

    let bad = virtual_service("x", "new").replace("hosts:", "hots:");
    folder.write("a.yaml", &format!("{bad}---\n{}", virtual_service("z", "z2")));
    for _ in 0..2 {
        let loaded = source.load();
        let hosts: Vec<_> =
            loaded.inputs.virtual_services.values().map(|rule| rule.spec.hosts[0].as_str()).collect();
        assert_eq!(hosts, ["old", "z2"]);
        let want = [
            (Code::UnknownField, "a.yaml".to_owned(), Some(5)),
            (Code::LastGoodKept, "a.yaml".to_owned(), Some(1)),
        ];
        assert_eq!(said(&loaded), want);
    }

    folder.write("a.yaml", &format!("{}---\n{}", virtual_service("x", "new"), virtual_service("z", "z2")));
    let loaded = source.load();
    assert_eq!(said(&loaded), []);
    assert_eq!(loaded.inputs.virtual_services.get(&Key::new("default", "x")).unwrap().spec.hosts, ["new"]);
}

#[test]
fn an_object_that_was_never_good_is_not_in_force() {
    let folder = Folder::new();
    folder.write("a.yaml", &virtual_service("x", "new").replace("hosts:", "hots:"));
    let loaded = folder.source().load();
    assert!(loaded.inputs.virtual_services.is_empty());
    assert_eq!(said(&loaded), [(Code::UnknownField, "a.yaml".to_owned(), Some(5))]);
}

#[test]
fn a_document_that_became_unreadable_keeps_the_object_it_had() {
    let folder = Folder::new();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}---\n{}", service("one", 1), service("two", 2), service("three", 3)),
    );
    let mut source = folder.source();
    source.load();
    // `two` breaks, `three` changes and moves to another file.
    folder
        .write(
            "a.yaml",
            &format!("{}---\n{}", service("one", 1), service("two", 2).replace("spec:", "]spec:")),
        )
        .write("b.yaml", &service("three", 33));
    let loaded = source.load();
    assert_eq!(services(&loaded), pairs(&[("one", 1), ("three", 33), ("two", 2)]));
    let kept: Vec<_> = loaded
        .diagnostics
        .iter()
        .filter(|said| said.code == Code::LastGoodKept)
        .map(|said| said.name.as_str())
        .collect();
    assert_eq!(kept, ["two"]);
    // Broken in another way: still there.
    folder.write("a.yaml", &format!("{}---\n\tnothing of it: is left", service("one", 1)));
    assert_eq!(services(&source.load()), pairs(&[("one", 1), ("three", 33), ("two", 2)]));
    // Repaired by leaving it out: gone.
    folder.write("a.yaml", &service("one", 1));
    let loaded = source.load();
    assert_eq!((services(&loaded), said(&loaded)), (pairs(&[("one", 1), ("three", 33)]), vec![]));
}

#[test]
fn an_object_whose_document_is_gone_is_gone() {
    let folder = Folder::new();
    folder
        .write("a.yaml", &format!("{}---\n{}", service("one", 1), service("two", 2)))
        .write("b.yaml", &service("three", 3));
    let mut source = folder.source();
    source.load();
    folder.write("a.yaml", &service("one", 1));
    folder.remove("b.yaml");
    let loaded = source.load();
    assert_eq!((services(&loaded), said(&loaded)), (pairs(&[("one", 1)]), vec![]));
}

#[test]
fn of_two_the_first_in_path_order_counts() {
    let folder = Folder::new();
    folder.write("b.yaml", &service("one", 2)).write("a.yaml", &service("one", 1));
    let mut source = folder.source();
    let loaded = source.load();
    assert_eq!(services(&loaded), pairs(&[("one", 1)]));
    assert_eq!(said(&loaded), [(Code::DuplicateObject, "b.yaml".to_owned(), Some(1))]);
    folder.remove("a.yaml");
    let loaded = source.load();
    assert_eq!((services(&loaded), said(&loaded)), (pairs(&[("one", 2)]), vec![]));
}

#[test]
fn a_file_or_folder_out_of_sight_keeps_its_objects() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("one", 1)).write("b.yaml", &service("two", 2));
    let mut source = folder.source();
    source.load();
    // A pipe or a link to nowhere in its place: not readable, whoever runs this test (root reads anything).
    folder.remove("a.yaml");
    std::os::unix::fs::symlink(folder.0.join("nowhere"), folder.0.join("a.yaml")).expect("link");
    let loaded = source.load();
    assert_eq!(services(&loaded), pairs(&[("one", 1), ("two", 2)]));
    assert_eq!(said(&loaded), [(Code::UnreadableFile, "a.yaml".to_owned(), None)]);
    // The whole folder.
    let away = folder.0.with_extension("away");
    fs::rename(&folder.0, &away).expect("rename");
    let loaded = source.load();
    fs::rename(&away, &folder.0).expect("rename");
    assert_eq!(services(&loaded), pairs(&[("one", 1), ("two", 2)]));
    assert_eq!(said(&loaded)[0].0, Code::UnreadableFile);
    // Back, and one of them for good.
    folder.remove("a.yaml");
    let loaded = source.load();
    assert_eq!((services(&loaded), said(&loaded)), (pairs(&[("two", 2)]), vec![]));
}

#[test]
fn a_file_that_is_too_large_keeps_its_objects() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("one", 1));
    let mut source = folder.source();
    source.load();
    fs::File::options()
        .write(true)
        .open(folder.0.join("a.yaml"))
        .and_then(|file| file.set_len(MAX_FILE_BYTES + 1))
        .expect("grows");
    let loaded = source.load();
    assert_eq!(services(&loaded), pairs(&[("one", 1)]));
    assert_eq!(said(&loaded), [(Code::TooLarge, "a.yaml".to_owned(), None)]);
}

#[test]
fn a_mounted_config_map_is_read_through_its_links() {
    let folder = Folder::new();
    folder.write("..v1/a.yaml", &service("one", 1)).write("..v2/a.yaml", &service("one", 2));
    let link = |target: &str, name: &str| {
        let path = folder.0.join(name);
        let temporary = folder.0.join("..temporary");
        std::os::unix::fs::symlink(target, &temporary).expect("link");
        fs::rename(temporary, path).expect("swap");
    };
    link("..v1", "..data");
    link("..data/a.yaml", "a.yaml");
    let mut source = folder.source();
    assert_eq!(services(&source.load()), pairs(&[("one", 1)]));
    link("..v2", "..data");
    assert_eq!(services(&source.load()), pairs(&[("one", 2)]));
}

#[test]
fn a_loop_of_links_ends() {
    let folder = Folder::new();
    folder.write("a/a.yaml", &service("one", 1));
    std::os::unix::fs::symlink("..", folder.0.join("a/up")).expect("link");
    assert_eq!(services(&folder.source().load()), pairs(&[("one", 1)]));
}

#[test]
fn mesh_settings_are_found_in_their_config_map() {
    let folder = Folder::new();
    let config_map = |mesh: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n{mesh}"
        )
    };
    folder.write("a.yaml", &config_map("    rootNamespace: root\n    connectTimeout: 3s\n"));
    let mut source = folder.source();
    let loaded = source.load();
    assert_eq!((loaded.inputs.mesh_config().root_namespace(), said(&loaded)), ("root", vec![]));
    for (mesh, code, line) in [
        ("    rootNamespace: root\n    accessLogFile: x\n    connectTimeout: x\n", Code::WrongType, 8),
        ("    rootNamespace: root\n    x: [\n", Code::Syntax, 7),
    ] {
        folder.write("a.yaml", &config_map(mesh));
        let loaded = source.load();
        assert_eq!(loaded.inputs.mesh_config().root_namespace(), "root");
        assert!(
            loaded.diagnostics.iter().any(|said| said.code == code && said.line >= Some(line)),
            "{:?}",
            said(&loaded)
        );
        assert!(loaded.diagnostics.iter().any(|said| said.code == Code::LastGoodKept));
    }
}

#[test]
fn several_roots_are_named_as_given() {
    let (one, two) = (Folder::new(), Folder::new());
    one.write("a.yaml", &service("one", 1));
    two.write("b.yaml", "x: [");
    let file = one.0.join("a.yaml");
    let loaded = FilesSource::of(vec![file.clone(), one.0.clone(), two.0.clone()]).load();
    assert_eq!(services(&loaded), pairs(&[("one", 1)]));
    let name = two.0.join("b.yaml").display().to_string();
    assert_eq!(said(&loaded).iter().map(|said| &said.1).collect::<Vec<_>>(), [&name]);
    assert_eq!(services(&FilesSource::new(&file).load()), pairs(&[("one", 1)]));
}

#[test]
fn a_file_that_is_not_text_is_named() {
    let folder = Folder::new();
    fs::write(folder.0.join("a.yaml"), b"a: 1\nb: \xff\n").expect("file");
    assert_eq!(said(&folder.source().load()), [(Code::Syntax, "a.yaml".to_owned(), Some(2))]);
}

/// Whether a change is seen, through the real clock: the file system's times are real too. With patience, since a busy machine
/// is no fault; that it takes less than a second is a matter of the whole agent's tests.
async fn is_changed(source: &mut FilesSource) -> bool {
    tokio::time::timeout(Duration::from_secs(20), source.changed()).await.is_ok()
}

async fn is_quiet(source: &mut FilesSource) -> bool {
    tokio::time::timeout(Duration::from_secs(1), source.changed()).await.is_err()
}

#[tokio::test]
async fn a_change_is_seen_though_the_wait_for_it_is_begun_again_and_again() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("one", 1));
    let mut source = folder.source();
    source.load();
    folder.write("a.yaml", &service("other", 1));
    let seen = async {
        loop {
            tokio::select! {
                () = source.changed() => break,
                () = tokio::time::sleep(POLL / 10) => {}
            }
        }
    };
    tokio::time::timeout(POLL * 40, seen).await.expect("the change");
}

#[tokio::test]
async fn a_change_is_seen_and_no_change_is_not() {
    let folder = Folder::new();
    folder.write("a.yaml", &service("one", 1));
    let mut source = folder.source();
    source.load();
    assert!(is_quiet(&mut source).await, "nothing happened");

    let replace = |path: &Path| {
        // As editors do: the same size, another inode.
        fs::write(path.with_extension("tmp"), service("one", 2))
            .and_then(|()| fs::rename(path.with_extension("tmp"), path))
    };
    replace(&folder.0.join("a.yaml")).expect("replace");
    assert!(is_changed(&mut source).await, "a replaced file");
    assert_eq!(services(&source.load()), pairs(&[("one", 2)]));

    folder.remove("a.yaml");
    assert!(is_changed(&mut source).await, "a removed file");
    assert_eq!(services(&source.load()), []);

    folder.write("b/c.yaml", &service("two", 1));
    assert!(is_changed(&mut source).await, "a new file");
    source.load();
    assert!(is_quiet(&mut source).await, "what was loaded is no change");
}

#[tokio::test]
async fn a_folder_that_never_rests_is_reported_too() {
    let folder = Folder::new();
    let mut source = folder.source();
    source.load();
    let path = folder.0.join("a.yaml");
    let writer = tokio::spawn(async move {
        for port in 1.. {
            fs::write(&path, service("one", port)).expect("file");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(is_changed(&mut source).await);
    writer.abort();
}

#[test]
fn the_examples_apply_without_errors() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let loaded = FilesSource::new(examples).load();
    let errors: Vec<_> =
        loaded.diagnostics.iter().filter(|said| said.is_error()).map(ToString::to_string).collect();
    assert_eq!(errors, Vec::<String>::new());
    assert!(
        loaded.inputs.virtual_services.len() >= 3,
        "{:?}",
        loaded.inputs.virtual_services.keys().collect::<Vec<_>>()
    );
    assert!(!loaded.inputs.gateways.is_empty() && !loaded.inputs.services.is_empty());
}
