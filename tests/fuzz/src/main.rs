//! One target, led by coverage: libFuzzer's program. `cargo xtask fuzz TARGET` builds and runs it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// Which; libFuzzer has the arguments.
static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| panic!("there is no target `{name}` of `FUZZ_TARGET`"))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
