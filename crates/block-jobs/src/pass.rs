//! What a filter passes on as it is.

/// The methods of a driver whose field `file` is the edge to what it filters and that has no say in them.
macro_rules! pass_on {
    () => {
        fn len(&self) -> u64 {
            self.file.len()
        }

        fn limits(&self) -> ::block::Limits {
            self.file.node().driver().limits()
        }

        fn read(&self, offset: u64, buf: ::iobuf::IoBuf) -> ::block::IoFuture<'_> {
            Box::pin(async move { self.file.read(offset, buf).await })
        }

        fn supports_fua(&self) -> bool {
            true
        }

        fn truncate(&self, len: u64, exact: bool, preallocation: ::block::Preallocation) -> ::block::IoFuture<'_> {
            Box::pin(async move { self.file.truncate(len, exact, preallocation).await })
        }

        fn block_status(&self, offset: u64, len: u64, _precise: bool) -> ::block::IoFuture<'_, ::block::BlockStatus> {
            ::block::done(::block::BlockStatus { recurse: true, ..::block::BlockStatus::data(len, Some(offset)) })
        }

        fn forwards_events(&self) -> bool {
            true
        }

        fn as_any(&self) -> &dyn ::std::any::Any {
            self
        }
    };
}

pub(crate) use pass_on;
