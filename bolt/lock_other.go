//go:build !((linux && !android) || darwin || freebsd || netbsd || openbsd || dragonfly)

package bolt

import "os"

const flocks = false

// lock is not called: bbolt locks in another way here.
func lock(*os.File) bool { return false }
