//! Everything about all domains in one call, and what the agent inside one guest says. The only file of CHOM with unsafe code: the `virt` crate's wrapper of
//! `virConnectGetAllDomainStats` hides the values and leaks the records, so libvirt's C functions are called here.
//! Nothing else belongs here; what the values mean is decided by `measure` in `engine.rs` and by `state.rs`.
#![allow(unsafe_code)] // The C calls below; each block says why it is sound.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// What libvirt says about one domain.
pub(crate) struct DomainStats {
    /// The domain; holds a reference of its own.
    pub(crate) domain: Domain,
    /// Numbers by libvirt's name for them, such as `block.0.rd.bytes`.
    pub(crate) numbers: Numbers,
    /// Texts by libvirt's name for them, such as `block.0.name`.
    pub(crate) texts: Texts,
}

impl DomainStats {
    /// A number, if libvirt gave it.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied()
    }
}

/// The `groups` (`VIR_DOMAIN_STATS_…`) of all domains that `flags` (`VIR_CONNECT_GET_ALL_DOMAINS_STATS_…`) select.
/// A domain that is busy is described by what libvirt knows without waiting for it.
pub(crate) fn all(connect: &Connect, groups: c_uint, flags: c_uint) -> Result<Vec<DomainStats>, Error> {
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: `as_ptr` gives the live connection that `connect` owns, and `records` is a valid place for the result.
    // On success libvirt stores a list there that ends with a null pointer; on failure it stores nothing.
    let count = unsafe {
        sys::virConnectGetAllDomainStats(
            connect.as_ptr(),
            groups,
            &raw mut records,
            flags | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )
    };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let list = Records(records);
    let mut out = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: libvirt returned `count` records, so the list has so many valid pointers; `list` frees them only
        // after this loop.
        let record = unsafe { &**list.0.add(index) };
        // SAFETY: a record's domain is valid while the record is, and `virDomainRef` adds a reference, which is the
        // one that the `Domain` then owns and frees.
        let domain = unsafe {
            if sys::virDomainRef(record.dom) != 0 {
                return Err(Error::last_error());
            }
            Domain::from_ptr(record.dom)
        };
        let mut stats = DomainStats { domain, numbers: BTreeMap::new(), texts: BTreeMap::new() };
        let length = usize::try_from(record.nparams).unwrap_or(0);
        for at in 0..length {
            // SAFETY: a record has `nparams` parameters in one array, which lives as long as the record.
            let parameter = unsafe { &*record.params.add(at) };
            read(parameter, &mut stats.numbers, &mut stats.texts);
        }
        out.push(stats);
    }
    Ok(out)
}

/// Lets every question to the agent in a guest end after so many seconds, so that one which hangs holds up nobody.
pub(crate) fn limit_agent(domain: &Domain, seconds: c_int) -> Result<(), Error> {
    // SAFETY: `as_ptr` gives the live domain that `domain` owns; the rest are plain numbers.
    match unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// What the agent in a guest says of one kind (`VIR_DOMAIN_GUEST_INFO_…`), added to what is known.
pub(crate) fn ask_agent(
    domain: &Domain,
    kind: c_uint,
    numbers: &mut Numbers,
    texts: &mut Texts,
) -> Result<(), Error> {
    let (mut parameters, mut count): (sys::virTypedParameterPtr, c_int) = (ptr::null_mut(), 0);
    // SAFETY: `as_ptr` gives the live domain that `domain` owns, and both places for the result are valid. On success
    // libvirt stores an array of `count` there, on failure nothing.
    let asked =
        unsafe { sys::virDomainGetGuestInfo(domain.as_ptr(), kind, &raw mut parameters, &raw mut count, 0) };
    if asked != 0 {
        return Err(Error::last_error());
    }
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the array has `count` parameters, and is freed only after this loop.
        read(unsafe { &*parameters.add(at) }, numbers, texts);
    }
    // SAFETY: the array came from `virDomainGetGuestInfo` with this count, and nobody else frees it.
    unsafe { sys::virTypedParamsFree(parameters, count) }
    Ok(())
}

/// Numbers by libvirt's name for them.
pub(crate) type Numbers = BTreeMap<String, u64>;
/// Texts by libvirt's name for them.
pub(crate) type Texts = BTreeMap<String, String>;

/// Puts one parameter where it belongs; kinds that CHOM has no use for are passed over.
fn read(parameter: &sys::virTypedParameter, numbers: &mut Numbers, texts: &mut Texts) {
    let name = text(&parameter.field);
    let kind = c_uint::try_from(parameter.type_).unwrap_or(0);
    let value = &parameter.value;
    match kind {
        // SAFETY: the type says that libvirt wrote this member of the union.
        sys::VIR_TYPED_PARAM_INT => insert(numbers, name, i64::from(unsafe { value.i })),
        // SAFETY: as above.
        sys::VIR_TYPED_PARAM_UINT => insert(numbers, name, i64::from(unsafe { value.ui })),
        // SAFETY: as above.
        sys::VIR_TYPED_PARAM_LLONG => insert(numbers, name, unsafe { value.l }),
        sys::VIR_TYPED_PARAM_ULLONG => {
            // SAFETY: as above.
            numbers.insert(name, unsafe { value.ul });
        }
        sys::VIR_TYPED_PARAM_STRING => {
            // SAFETY: as above; a string parameter is null or a C string that lives as long as the record.
            let text = unsafe {
                if value.s.is_null() {
                    None
                } else {
                    Some(CStr::from_ptr(value.s).to_string_lossy().into_owned())
                }
            };
            if let Some(text) = text {
                texts.insert(name, text);
            }
        }
        _ => {}
    }
}

fn insert(numbers: &mut Numbers, name: String, value: i64) {
    if let Ok(value) = u64::try_from(value) {
        numbers.insert(name, value);
    }
}

/// The text of a fixed field up to its first zero byte, or all of it.
fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| c.to_ne_bytes()[0]).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Frees the list, whatever happens.
struct Records(*mut sys::virDomainStatsRecordPtr);

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: the list came from `virConnectGetAllDomainStats`, nobody else frees it, and null is allowed.
        unsafe { sys::virDomainStatsRecordListFree(self.0) }
    }
}

const _: () = assert!(size_of::<c_int>() == 4, "libvirt's typed parameters hold 32-bit integers");
