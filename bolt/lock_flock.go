//go:build (linux && !android) || darwin || freebsd || netbsd || openbsd || dragonfly

package bolt

import (
	"os"
	"syscall"
)

const flocks = true // bbolt locks by flock(2)

// lock takes the lock that bbolt takes on a file, which bbolt then finds it has already; false if another has it. It goes with
// the file's descriptor.
func lock(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
