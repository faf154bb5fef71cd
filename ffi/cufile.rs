//! CuFile as its header declares it, for a library that is loaded while air runs.
//!
//! Written by bindgen 0.73.2 through scripts/check_ffi.sh --write; not by hand.

#![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

pub type CUresult = ::std::os::raw::c_uint;
pub type CUfileFSOps = ::std::os::raw::c_void;

pub type __off_t = ::std::os::raw::c_long;
pub type off_t = __off_t;
pub const CU_FILE_SUCCESS: CUfileOpError = 0;
pub const CU_FILE_DRIVER_NOT_INITIALIZED: CUfileOpError = 5001;
pub const CU_FILE_DRIVER_INVALID_PROPS: CUfileOpError = 5002;
pub const CU_FILE_DRIVER_UNSUPPORTED_LIMIT: CUfileOpError = 5003;
pub const CU_FILE_DRIVER_VERSION_MISMATCH: CUfileOpError = 5004;
pub const CU_FILE_DRIVER_VERSION_READ_ERROR: CUfileOpError = 5005;
pub const CU_FILE_DRIVER_CLOSING: CUfileOpError = 5006;
pub const CU_FILE_PLATFORM_NOT_SUPPORTED: CUfileOpError = 5007;
pub const CU_FILE_IO_NOT_SUPPORTED: CUfileOpError = 5008;
pub const CU_FILE_DEVICE_NOT_SUPPORTED: CUfileOpError = 5009;
pub const CU_FILE_NVFS_DRIVER_ERROR: CUfileOpError = 5010;
pub const CU_FILE_CUDA_DRIVER_ERROR: CUfileOpError = 5011;
pub const CU_FILE_CUDA_POINTER_INVALID: CUfileOpError = 5012;
pub const CU_FILE_CUDA_MEMORY_TYPE_INVALID: CUfileOpError = 5013;
pub const CU_FILE_CUDA_POINTER_RANGE_ERROR: CUfileOpError = 5014;
pub const CU_FILE_CUDA_CONTEXT_MISMATCH: CUfileOpError = 5015;
pub const CU_FILE_INVALID_MAPPING_SIZE: CUfileOpError = 5016;
pub const CU_FILE_INVALID_MAPPING_RANGE: CUfileOpError = 5017;
pub const CU_FILE_INVALID_FILE_TYPE: CUfileOpError = 5018;
pub const CU_FILE_INVALID_FILE_OPEN_FLAG: CUfileOpError = 5019;
pub const CU_FILE_DIO_NOT_SET: CUfileOpError = 5020;
pub const CU_FILE_INVALID_VALUE: CUfileOpError = 5022;
pub const CU_FILE_MEMORY_ALREADY_REGISTERED: CUfileOpError = 5023;
pub const CU_FILE_MEMORY_NOT_REGISTERED: CUfileOpError = 5024;
pub const CU_FILE_PERMISSION_DENIED: CUfileOpError = 5025;
pub const CU_FILE_DRIVER_ALREADY_OPEN: CUfileOpError = 5026;
pub const CU_FILE_HANDLE_NOT_REGISTERED: CUfileOpError = 5027;
pub const CU_FILE_HANDLE_ALREADY_REGISTERED: CUfileOpError = 5028;
pub const CU_FILE_DEVICE_NOT_FOUND: CUfileOpError = 5029;
pub const CU_FILE_INTERNAL_ERROR: CUfileOpError = 5030;
pub const CU_FILE_GETNEWFD_FAILED: CUfileOpError = 5031;
pub const CU_FILE_NVFS_SETUP_ERROR: CUfileOpError = 5033;
pub const CU_FILE_IO_DISABLED: CUfileOpError = 5034;
pub const CU_FILE_BATCH_SUBMIT_FAILED: CUfileOpError = 5035;
pub const CU_FILE_GPU_MEMORY_PINNING_FAILED: CUfileOpError = 5036;
pub const CU_FILE_BATCH_FULL: CUfileOpError = 5037;
pub const CU_FILE_ASYNC_NOT_SUPPORTED: CUfileOpError = 5038;
pub const CU_FILE_INTERNAL_BATCH_SETUP_ERROR: CUfileOpError = 5039;
pub const CU_FILE_INTERNAL_BATCH_SUBMIT_ERROR: CUfileOpError = 5040;
pub const CU_FILE_INTERNAL_BATCH_GETSTATUS_ERROR: CUfileOpError = 5041;
pub const CU_FILE_INTERNAL_BATCH_CANCEL_ERROR: CUfileOpError = 5042;
pub const CU_FILE_NOMEM_ERROR: CUfileOpError = 5043;
pub const CU_FILE_IO_ERROR: CUfileOpError = 5044;
pub const CU_FILE_INTERNAL_BUF_REGISTER_ERROR: CUfileOpError = 5045;
pub const CU_FILE_HASH_OPR_ERROR: CUfileOpError = 5046;
pub const CU_FILE_INVALID_CONTEXT_ERROR: CUfileOpError = 5047;
pub const CU_FILE_NVFS_INTERNAL_DRIVER_ERROR: CUfileOpError = 5048;
pub const CU_FILE_BATCH_NOCOMPAT_ERROR: CUfileOpError = 5049;
pub const CU_FILE_IO_MAX_ERROR: CUfileOpError = 5050;
pub type CUfileOpError = ::std::os::raw::c_uint;
#[repr(C)]
pub struct CUfileError {
    pub err: CUfileOpError,
    pub cu_err: CUresult,
}
pub type CUfileError_t = CUfileError;
pub const CU_FILE_LUSTRE_SUPPORTED: CUfileDriverStatusFlags = 0;
pub const CU_FILE_WEKAFS_SUPPORTED: CUfileDriverStatusFlags = 1;
pub const CU_FILE_NFS_SUPPORTED: CUfileDriverStatusFlags = 2;
pub const CU_FILE_GPFS_SUPPORTED: CUfileDriverStatusFlags = 3;
pub const CU_FILE_NVME_SUPPORTED: CUfileDriverStatusFlags = 4;
pub const CU_FILE_NVMEOF_SUPPORTED: CUfileDriverStatusFlags = 5;
pub const CU_FILE_SCSI_SUPPORTED: CUfileDriverStatusFlags = 6;
pub const CU_FILE_SCALEFLUX_CSD_SUPPORTED: CUfileDriverStatusFlags = 7;
pub const CU_FILE_NVMESH_SUPPORTED: CUfileDriverStatusFlags = 8;
pub const CU_FILE_BEEGFS_SUPPORTED: CUfileDriverStatusFlags = 9;
pub const CU_FILE_NVME_P2P_SUPPORTED: CUfileDriverStatusFlags = 11;
pub const CU_FILE_SCATEFS_SUPPORTED: CUfileDriverStatusFlags = 12;
pub type CUfileDriverStatusFlags = ::std::os::raw::c_uint;
pub const CU_FILE_USE_POLL_MODE: CUfileDriverControlFlags = 0;
pub const CU_FILE_ALLOW_COMPAT_MODE: CUfileDriverControlFlags = 1;
pub type CUfileDriverControlFlags = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfileDrvProps {
    pub nvfs: CUfileDrvProps__bindgen_ty_1,
    pub fflags: ::std::os::raw::c_uint,
    pub max_device_cache_size: ::std::os::raw::c_uint,
    pub per_buffer_cache_size: ::std::os::raw::c_uint,
    pub max_device_pinned_mem_size: ::std::os::raw::c_uint,
    pub max_batch_io_size: ::std::os::raw::c_uint,
    pub max_batch_io_timeout_msecs: ::std::os::raw::c_uint,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfileDrvProps__bindgen_ty_1 {
    pub major_version: ::std::os::raw::c_uint,
    pub minor_version: ::std::os::raw::c_uint,
    pub poll_thresh_size: usize,
    pub max_direct_io_size: usize,
    pub dstatusflags: ::std::os::raw::c_uint,
    pub dcontrolflags: ::std::os::raw::c_uint,
}
pub type CUfileDrvProps_t = CUfileDrvProps;
pub type CUfileFSOps_t = CUfileFSOps;
pub const CU_FILE_HANDLE_TYPE_OPAQUE_FD: CUfileFileHandleType = 1;
pub const CU_FILE_HANDLE_TYPE_OPAQUE_WIN32: CUfileFileHandleType = 2;
pub const CU_FILE_HANDLE_TYPE_USERSPACE_FS: CUfileFileHandleType = 3;
pub type CUfileFileHandleType = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUfileDescr_t {
    pub type_: CUfileFileHandleType,
    pub handle: CUfileDescr_t__bindgen_ty_1,
    pub fs_ops: *const CUfileFSOps_t,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union CUfileDescr_t__bindgen_ty_1 {
    pub fd: ::std::os::raw::c_int,
    pub handle: *mut ::std::os::raw::c_void,
}
pub type CUfileHandle_t = *mut ::std::os::raw::c_void;
pub const CUFILE_PARAM_LOGGING_LEVEL: CUFileStringConfigParameter_t = 0;
pub const CUFILE_PARAM_ENV_LOGFILE_PATH: CUFileStringConfigParameter_t = 1;
pub const CUFILE_PARAM_LOG_DIR: CUFileStringConfigParameter_t = 2;
pub type CUFileStringConfigParameter_t = ::std::os::raw::c_uint;
pub struct CuFile {
    __library: ::libloading::Library,
    pub cuFileHandleRegister: unsafe extern "C" fn(fh: *mut CUfileHandle_t, descr: *mut CUfileDescr_t) -> CUfileError_t,
    pub cuFileHandleDeregister: unsafe extern "C" fn(fh: CUfileHandle_t),
    pub cuFileBufRegister: unsafe extern "C" fn(
        bufPtr_base: *const ::std::os::raw::c_void,
        length: usize,
        flags: ::std::os::raw::c_int,
    ) -> CUfileError_t,
    pub cuFileBufDeregister: unsafe extern "C" fn(bufPtr_base: *const ::std::os::raw::c_void) -> CUfileError_t,
    pub cuFileRead: unsafe extern "C" fn(
        fh: CUfileHandle_t,
        bufPtr_base: *mut ::std::os::raw::c_void,
        size: usize,
        file_offset: off_t,
        bufPtr_offset: off_t,
    ) -> isize,
    pub cuFileDriverOpen: unsafe extern "C" fn() -> CUfileError_t,
    pub cuFileDriverClose_v2: unsafe extern "C" fn() -> CUfileError_t,
    pub cuFileDriverGetProperties: unsafe extern "C" fn(props: *mut CUfileDrvProps_t) -> CUfileError_t,
    pub cuFileGetVersion: unsafe extern "C" fn(version: *mut ::std::os::raw::c_int) -> CUfileError_t,
    pub cuFileSetParameterString: unsafe extern "C" fn(
        param: CUFileStringConfigParameter_t,
        desc_str: *const ::std::os::raw::c_char,
    ) -> CUfileError_t,
}
impl CuFile {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let path = path.as_ref();
        let library = unsafe { ::libloading::Library::new(path) }?;
        unsafe { Self::from_library(library) }
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let cuFileHandleRegister = unsafe { __library.get(b"cuFileHandleRegister\0") }.map(|sym| *sym)?;
        let cuFileHandleDeregister = unsafe { __library.get(b"cuFileHandleDeregister\0") }.map(|sym| *sym)?;
        let cuFileBufRegister = unsafe { __library.get(b"cuFileBufRegister\0") }.map(|sym| *sym)?;
        let cuFileBufDeregister = unsafe { __library.get(b"cuFileBufDeregister\0") }.map(|sym| *sym)?;
        let cuFileRead = unsafe { __library.get(b"cuFileRead\0") }.map(|sym| *sym)?;
        let cuFileDriverOpen = unsafe { __library.get(b"cuFileDriverOpen\0") }.map(|sym| *sym)?;
        let cuFileDriverClose_v2 = unsafe { __library.get(b"cuFileDriverClose_v2\0") }.map(|sym| *sym)?;
        let cuFileDriverGetProperties = unsafe { __library.get(b"cuFileDriverGetProperties\0") }.map(|sym| *sym)?;
        let cuFileGetVersion = unsafe { __library.get(b"cuFileGetVersion\0") }.map(|sym| *sym)?;
        let cuFileSetParameterString = unsafe { __library.get(b"cuFileSetParameterString\0") }.map(|sym| *sym)?;
        Ok(CuFile {
            __library,
            cuFileHandleRegister,
            cuFileHandleDeregister,
            cuFileBufRegister,
            cuFileBufDeregister,
            cuFileRead,
            cuFileDriverOpen,
            cuFileDriverClose_v2,
            cuFileDriverGetProperties,
            cuFileGetVersion,
            cuFileSetParameterString,
        })
    }
    pub unsafe fn cuFileHandleRegister(&self, fh: *mut CUfileHandle_t, descr: *mut CUfileDescr_t) -> CUfileError_t {
        unsafe { (self.cuFileHandleRegister)(fh, descr) }
    }
    pub unsafe fn cuFileHandleDeregister(&self, fh: CUfileHandle_t) {
        unsafe { (self.cuFileHandleDeregister)(fh) }
    }
    pub unsafe fn cuFileBufRegister(
        &self,
        bufPtr_base: *const ::std::os::raw::c_void,
        length: usize,
        flags: ::std::os::raw::c_int,
    ) -> CUfileError_t {
        unsafe { (self.cuFileBufRegister)(bufPtr_base, length, flags) }
    }
    pub unsafe fn cuFileBufDeregister(&self, bufPtr_base: *const ::std::os::raw::c_void) -> CUfileError_t {
        unsafe { (self.cuFileBufDeregister)(bufPtr_base) }
    }
    pub unsafe fn cuFileRead(
        &self,
        fh: CUfileHandle_t,
        bufPtr_base: *mut ::std::os::raw::c_void,
        size: usize,
        file_offset: off_t,
        bufPtr_offset: off_t,
    ) -> isize {
        unsafe { (self.cuFileRead)(fh, bufPtr_base, size, file_offset, bufPtr_offset) }
    }
    pub unsafe fn cuFileDriverOpen(&self) -> CUfileError_t {
        unsafe { (self.cuFileDriverOpen)() }
    }
    pub unsafe fn cuFileDriverClose_v2(&self) -> CUfileError_t {
        unsafe { (self.cuFileDriverClose_v2)() }
    }
    pub unsafe fn cuFileDriverGetProperties(&self, props: *mut CUfileDrvProps_t) -> CUfileError_t {
        unsafe { (self.cuFileDriverGetProperties)(props) }
    }
    pub unsafe fn cuFileGetVersion(&self, version: *mut ::std::os::raw::c_int) -> CUfileError_t {
        unsafe { (self.cuFileGetVersion)(version) }
    }
    pub unsafe fn cuFileSetParameterString(
        &self,
        param: CUFileStringConfigParameter_t,
        desc_str: *const ::std::os::raw::c_char,
    ) -> CUfileError_t {
        unsafe { (self.cuFileSetParameterString)(param, desc_str) }
    }
}
