//! `bpf(2)` where aya has no call for it: links that are updated in place and pinned, iterators over one map, and batches.
//!
//! Every call takes borrowed descriptors and returns owned ones; nothing here keeps state.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_map_type, bpf_prog_info,
};

/// Issues one command.
fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the attribute union is fully initialised (zeroed first), lives through the call, and its size is passed; every
    // pointer in it was taken from a live borrow by the callers below. aya has no public wrapper for these commands.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers and addresses, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned it; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Attaches a program to a cgroup or map by a link.
///
/// # Errors
///
/// The kernel's: `EINVAL` where it does not know links for this attach type.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(target);
    attr.link_create.attach_type = attach_type as u32;
    owned(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

/// Attaches a `tp_btf` program to the tracepoint that it was loaded for.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn tracing_attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = raw(program);
    owned(bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)?)
}

/// Replaces the program of a link, atomically.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Attaches an `sk_msg` program to a socket map without a link (kernels before 6.10); it stays for the map's life.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn prog_attach(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let attach = unsafe { &mut attr.__bindgen_anon_5 };
    attach.__bindgen_anon_1.target_fd = raw(map);
    attach.attach_bpf_fd = raw(program);
    attach.attach_type = attach_type as u32;
    bpf(bpf_cmd::BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Pins an object at `path` in a bpf file system.
///
/// # Errors
///
/// The kernel's: `EEXIST` where something is there.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let object_attr = unsafe { &mut attr.__bindgen_anon_4 };
    object_attr.pathname = path.as_ptr() as u64;
    object_attr.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens the object pinned at `path`.
///
/// # Errors
///
/// The kernel's: `ENOENT` where nothing is there.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let object_attr = unsafe { &mut attr.__bindgen_anon_4 };
    object_attr.pathname = path.as_ptr() as u64;
    owned(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?)
}

/// Returns the tag (a hash of the instructions) of a loaded program.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn program_tag(program: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    // SAFETY: plain integers and addresses, for which zero is valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info_by_fd(program, &mut info)?;
    Ok(info.tag)
}

/// Returns the tag of the program that a link runs.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn link_program_tag(link: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    // SAFETY: plain integers and addresses, for which zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    info_by_fd(link, &mut info)?;
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let by_id = unsafe { &mut attr.__bindgen_anon_6 };
    by_id.__bindgen_anon_1.prog_id = info.prog_id;
    let program = owned(bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr)?)?;
    program_tag(std::os::fd::AsFd::as_fd(&program))
}

/// Type, sizes and capacity of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MapLayout {
    /// `enum bpf_map_type`.
    pub(crate) kind: u32,
    /// Bytes of a key.
    pub(crate) key_size: u32,
    /// Bytes of a value (of one CPU).
    pub(crate) value_size: u32,
    /// Elements, or bytes of a ring buffer.
    pub(crate) max_entries: u32,
}

impl MapLayout {
    /// Returns whether a map of this layout can stand for one of the layout `wanted`: hash maps also with another capacity,
    /// which goes on to be theirs.
    pub(crate) fn serves_as(&self, wanted: &Self) -> bool {
        let hashes = [
            bpf_map_type::BPF_MAP_TYPE_HASH,
            bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_SOCKHASH,
        ];
        let any_capacity = hashes.iter().any(|hash| *hash as u32 == self.kind);
        let max_entries = if any_capacity {
            wanted.max_entries
        } else {
            self.max_entries
        };
        Self {
            max_entries,
            ..*self
        } == *wanted
    }
}

/// Returns the layout of a map.
///
/// # Errors
///
/// The kernel's: `EINVAL` where `object` is no map.
pub(crate) fn map_layout(object: BorrowedFd<'_>) -> io::Result<MapLayout> {
    // The kernel tells the kind of an object only by name, in `/proc/self/fd`; the query below fits any kind of object.
    let name = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    if name.as_os_str() != "anon_inode:bpf-map" {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: plain integers and addresses, for which zero is valid.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    info_by_fd(object, &mut info)?;
    Ok(MapLayout {
        kind: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
    })
}

fn info_by_fd<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(fd);
    attr.info.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Starts one pass of an iterator program over the elements of `map`; reading the descriptor runs it.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn iterate(program: BorrowedFd<'_>, map: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info`: the map's descriptor, and as much room as its largest member takes.
    let mut info = [map.map_or(0, raw), 0, 0, 0];
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    // SAFETY: writing a union field of plain integers.
    let link = unsafe { &mut attr.link_create };
    // SAFETY: as above.
    let iter = unsafe { &mut link.__bindgen_anon_3.__bindgen_anon_1 };
    if map.is_some() {
        iter.iter_info = std::ptr::from_mut(&mut info) as u64;
        iter.iter_info_len = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    }
    let link = owned(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)?;
    let mut attr = zeroed();
    attr.iter_create.link_fd = raw(std::os::fd::AsFd::as_fd(&link));
    owned(bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr)?)
}

/// Looks up one element; `value` takes its bytes.
///
/// # Errors
///
/// `ENOENT` where there is none; the kernel's otherwise.
pub(crate) fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Stores one element, new or not.
///
/// # Errors
///
/// `E2BIG` where the map is full; the kernel's otherwise.
pub(crate) fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Deletes one element.
///
/// # Errors
///
/// `ENOENT` where there is none; the kernel's otherwise.
pub(crate) fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(map, key)).map(drop)
}

/// Writes the key after `key` (the first where that is `None` or gone) into `next`; returns whether there is one.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn map_next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let mut attr = element(map, key.unwrap_or_default());
    if key.is_none() {
        attr.__bindgen_anon_2.key = 0;
    }
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn element(map: BorrowedFd<'_>, key: &[u8]) -> bpf_attr {
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = raw(map);
    element.key = key.as_ptr() as u64;
    attr
}

/// Reads up to `count` elements into `keys` and `values`, going on from `cursor`; returns how many, and whether that was all.
///
/// The cursor is opaque to the caller: 4 bytes for hash maps (a bucket number), `None` to start.
///
/// # Errors
///
/// The kernel's: `ENOSPC` where one bucket holds more than `count`.
pub(crate) fn map_lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Option<u32>,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<(u32, bool)> {
    let mut next = 0u32;
    let mut attr = zeroed();
    attr.batch.map_fd = raw(map);
    attr.batch.in_batch = cursor
        .as_mut()
        .map_or(0, |batch| std::ptr::from_mut(batch) as u64);
    attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = count;
    let done = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    *cursor = Some(next);
    // SAFETY: the kernel wrote the number of elements here.
    Ok((unsafe { attr.batch.count }, done))
}

/// Stores elements, new or not, by one call; returns how many, and why not all. `keys` and `values` lie back to back.
pub(crate) fn map_update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: usize,
) -> (usize, io::Result<()>) {
    let mut attr = zeroed();
    attr.batch.values = values.as_ptr() as u64;
    batch(bpf_cmd::BPF_MAP_UPDATE_BATCH, map, keys, count, attr)
}

/// Deletes elements by one call; returns how many, and why not all: `ENOENT` where the next is not there. `keys` lie back to back.
pub(crate) fn map_delete_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    count: usize,
) -> (usize, io::Result<()>) {
    batch(bpf_cmd::BPF_MAP_DELETE_BATCH, map, keys, count, zeroed())
}

fn batch(
    cmd: bpf_cmd,
    map: BorrowedFd<'_>,
    keys: &[u8],
    count: usize,
    mut attr: bpf_attr,
) -> (usize, io::Result<()>) {
    // The kernel refuses a call without elements on some versions.
    let Ok(count @ 1..) = u32::try_from(count) else {
        return (0, Ok(()));
    };
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.count = count;
    match bpf(cmd, &mut attr) {
        Ok(_) => (count as usize, Ok(())),
        // SAFETY: the kernel wrote the number of elements here, unless it did not get that far: then the error is EFAULT or EINVAL.
        Err(error) => match (unsafe { attr.batch.count }, error.raw_os_error()) {
            (_, Some(libc::EFAULT | libc::EINVAL | libc::EPERM)) => (0, Err(error)),
            (done, _) => (done.min(count) as usize, Err(error)),
        },
    }
}

/// Takes the element of `key` out of a hash map (5.14 and later).
///
/// # Errors
///
/// `ENOENT` where there is none; the kernel's otherwise.
pub(crate) fn map_take(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr).map(drop)
}

/// Takes the oldest element out of a queue.
///
/// # Errors
///
/// `ENOENT` where it is empty; the kernel's otherwise.
pub(crate) fn queue_pop(queue: BorrowedFd<'_>, value: &mut [u8]) -> io::Result<()> {
    // A queue has no keys, and refuses one.
    let mut attr = element(queue, &[]);
    attr.__bindgen_anon_2.key = 0;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr).map(drop)
}

/// Appends an element to a queue.
///
/// # Errors
///
/// `E2BIG` where it is full; the kernel's otherwise.
pub(crate) fn queue_push(queue: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    // As above.
    let mut attr = element(queue, &[]);
    attr.__bindgen_anon_2.key = 0;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Gives memory that is free back to the system.
///
/// Reading the kernel's type information takes some 30 MB for a moment, in pieces that the allocator would keep for ever.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: thread-safe, and touches free memory only (malloc_trim(3)). Safe code has no name for it.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Waits until every kernel program that runs at this moment has ended (an RCU grace period; 10 ms or so).
///
/// # Errors
///
/// Where the kernel does not offer it: membarrier(2) without the global command, or a single CPU, where it waits for nothing.
pub(crate) fn rcu_grace_period() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    if aya::util::nr_cpus().is_ok_and(|cpus| cpus < 2) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: takes numbers only. Safe code has no name for it.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
