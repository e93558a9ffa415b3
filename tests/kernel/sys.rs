//! System calls that no crate here has a safe call for.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_info, bpf_prog_type,
};

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the union is fully initialised, lives through the call, and its size is passed; the pointers in it were taken
    // from live borrows by the callers below.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers and addresses, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

/// Asks the kernel to run a program on `bytes`, as data and as context (`BPF_PROG_TEST_RUN`).
pub(crate) fn test_run(program: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.ctx_in = bytes.as_ptr() as u64;
    attr.test.ctx_size_in = u32::try_from(bytes.len()).unwrap();
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).map(drop)
}

/// Sends bytes that are not there: the call fails with `EFAULT`, or takes none where the socket is in a socket map.
pub(crate) fn send_nothing(socket: &OwnedFd) {
    let nowhere = std::ptr::without_provenance(1);
    // SAFETY: the kernel finds no memory at this address, and fails instead of faulting.
    let sent = unsafe { libc::send(socket.as_raw_fd(), nowhere, 1000, libc::MSG_NOSIGNAL) };
    assert!(sent <= 0, "{sent}");
}

/// Returns how many of its bytes a socket keeps because the other end has not acknowledged them (`SIOCOUTQ`, tcp(7)).
pub(crate) fn unacknowledged(socket: &OwnedFd) -> i32 {
    let mut bytes = 0;
    // SAFETY: the call writes one int.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    bytes
}

/// Loads a cgroup `connect4` program.
pub(crate) fn load_connect4(code: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
    load.expected_attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
    load.insn_cnt = u32::try_from(code.len() / 8).unwrap();
    load.insns = code.as_ptr() as u64;
    load.license = c"GPL".as_ptr() as u64;
    let fd = i32::try_from(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?).unwrap();
    // SAFETY: the kernel just returned it; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a cgroup, for as long as what it returns lives.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = hook as u32;
    let fd = i32::try_from(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?).unwrap();
    // SAFETY: the kernel just returned it; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks the kernel to run a program on a context (`BPF_PROG_TEST_RUN`); returns what the program did.
pub(crate) fn run_with_context(program: BorrowedFd<'_>, context: &[u8]) -> io::Result<u32> {
    let mut attr = zeroed();
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.ctx_in = context.as_ptr() as u64;
    attr.test.ctx_size_in = u32::try_from(context.len()).unwrap();
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel wrote the result here.
    Ok(unsafe { attr.test.retval })
}

/// A map to be made: type, sizes of key and value, number of entries, flags.
pub(crate) struct NewMap(
    pub(crate) bpf_map_type,
    pub(crate) usize,
    pub(crate) usize,
    pub(crate) u32,
    pub(crate) u32,
);

/// Makes a map and pins it.
pub(crate) fn make_map(path: &Path, map: &NewMap) -> io::Result<()> {
    let NewMap(kind, key, value, entries, flags) = map;
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = *kind as u32;
    create.key_size = u32::try_from(*key).unwrap();
    create.value_size = u32::try_from(*value).unwrap();
    create.max_entries = *entries;
    create.map_flags = *flags;
    let fd = i32::try_from(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?).unwrap();
    // SAFETY: the kernel just returned it; nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = path.as_ptr() as u64;
    object.bpf_fd = fd.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Returns the instructions of a loaded program, eight bytes each.
pub(crate) fn instructions(program: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: plain integers and addresses, for which zero is valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    ask(program, &mut info)?;
    let mut bytes = vec![0; info.xlated_prog_len as usize];
    // SAFETY: as above.
    info = unsafe { std::mem::zeroed() };
    info.xlated_prog_len = u32::try_from(bytes.len()).unwrap();
    info.xlated_prog_insns = bytes.as_mut_ptr() as u64;
    ask(program, &mut info)?;
    Ok(bytes)
}

fn ask(program: BorrowedFd<'_>, info: &mut bpf_prog_info) -> io::Result<()> {
    let mut attr = zeroed();
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).unwrap();
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Returns the cookie of the network namespace that a socket is in.
pub(crate) fn netns_cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: both pointers are to live locals, and `length` says how large `cookie` is.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Sets an option from any bytes.
pub(crate) fn set_option(
    socket: &impl AsRawFd,
    level: i32,
    name: i32,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap();
    // SAFETY: a live socket, and a live buffer with its length.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Dissolves a socket's association (`connect` to `AF_UNSPEC`, connect(2)).
pub(crate) fn disconnect(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: plain integers and bytes, for which zero is valid; family zero is `AF_UNSPEC`.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = libc::socklen_t::try_from(size_of_val(&nowhere)).unwrap();
    // SAFETY: a live socket, and a live address with its length.
    let ret = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts a socket into the pinned socket map under a key of the caller's choice.
pub(crate) fn put_socket(map: &Path, key: &[u8], socket: &impl AsRawFd) -> io::Result<()> {
    put(map, key, &socket.as_raw_fd().to_ne_bytes())
}

/// Stores an element of a pinned map.
pub(crate) fn put(map: &Path, key: &[u8], value: &[u8]) -> io::Result<()> {
    let path = CString::new(map.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = path.as_ptr() as u64;
    let fd = i32::try_from(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?).unwrap();
    // SAFETY: the kernel just returned it; nobody else has it.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut attr = zeroed();
    // SAFETY: writing a union field of plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = key.as_ptr() as u64;
    element.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}
