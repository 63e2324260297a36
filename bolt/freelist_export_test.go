package bolt

import (
	"log/slog"
	"os"
)

// HasFreelist reports whether a file has a list of its free pages.
func HasFreelist(path string) bool { return metaOf(path).freelist != noFreelist }

// InUse returns how many bytes of a file were ever in use.
func InUse(path string) int64 {
	m := metaOf(path)
	return int64(m.pages * m.pageSize)
}

func metaOf(path string) meta {
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	m, err := readMeta(f)
	if err != nil {
		panic(err)
	}
	return m
}

// RestoreFreelist is what Open does after a crash.
func RestoreFreelist(path string) (restored bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return RestoreFreelistOf(f)
}

// RestoreFreelistOf is RestoreFreelist of an open file.
func RestoreFreelistOf(f medium) (bool, error) {
	return restoreFreelist(f, slog.New(slog.DiscardHandler), 0)
}

// RestoreFreelistOfLogging is RestoreFreelistOf, with progress logged all the time.
func RestoreFreelistOfLogging(f medium, log *slog.Logger) (bool, error) {
	return restoreFreelist(f, log, 0)
}
