//! Any text as an image name: it is refused, or its full and its short form mean the same.

#![no_main]

use kindlift::reference::Reference;
use kindlift_fuzz::limit_memory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    limit_memory();
    let Ok(name) = Reference::parse(text) else {
        return;
    };
    let full = name.to_string();
    for form in [full.clone(), name.familiar()] {
        let again = Reference::parse(&form).unwrap_or_else(|e| panic!("{text:?}: {form}: {e}"));
        assert_eq!(again.to_string(), full, "{text:?} by way of {form:?}");
        assert_eq!(again.registry(), name.registry());
        assert_eq!(again.repository(), name.repository());
        assert_eq!((again.tag(), again.digest()), (name.tag(), name.digest()));
    }
    assert_eq!(name.tag().is_some(), name.digest().is_none());
    assert_eq!(name.is_latest(), full.ends_with(":latest"));
    // It goes to commands and messages as it is.
    assert!(
        full.chars()
            .all(|c| c.is_ascii_graphic() && !"'\"`$\\;&|<>*?(){}!#~".contains(c)),
        "{full:?}"
    );
    if let Some(tag) = name.tag() {
        assert_eq!(name.with_tag(tag).unwrap().to_string(), full);
    }
});
