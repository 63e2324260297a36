package bench_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// usage is what something took. Processor times are in user and in kernel mode together. Memory is what a process has
// of its own: mapped files, which the kernel can drop at any time, are not in it.
type usage struct {
	took         time.Duration
	here         time.Duration // processor time of this process
	receiver     time.Duration
	server       time.Duration
	memory       int64 // bytes, the most that this process had
	serverMemory int64 // bytes at the end
}

const memoryEvery = 20 * time.Millisecond

// metered measures f. server is nil if there is none. Where there is no /proc, all is 0 but the time.
func metered(r *receiver, server *process, f func()) usage {
	debug.FreeOSMemory() // what the last one has left is not this one's
	var u usage
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(memoryEvery)
		defer tick.Stop()
		for {
			u.memory = max(u.memory, ownMemory())
			select {
			case <-tick.C:
			case <-stop:
				u.memory = max(u.memory, ownMemory())
				return
			}
		}
	})
	here, receiver, serving := cpuTime(os.Getpid()), cpuTime(r.pid), server.cpuTime()
	start := time.Now()
	f()
	u.took = time.Since(start)
	u.here = cpuTime(os.Getpid()) - here
	u.receiver = cpuTime(r.pid) - receiver
	u.server = server.cpuTime() - serving
	close(stop)
	watch.Wait()
	u.serverMemory = server.memory()
	return u
}

// clockTick is the unit of times in /proc (proc_pid_stat(5)): USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime returns how much processor time a process has used, in user and in kernel mode, or 0 if there is no /proc.
// Of this process it is exact; of another one it lacks what threads that have ended had used.
func cpuTime(pid int) time.Duration {
	if pid == os.Getpid() {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	// A thread's times are in nanoseconds, if the kernel keeps them.
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	var total time.Duration
	for _, path := range threads {
		text, _ := os.ReadFile(path)
		if f := bytes.Fields(text); len(f) > 0 {
			n, _ := strconv.ParseInt(string(f[0]), 10, 64)
			total += time.Duration(n)
		}
	}
	if total > 0 {
		return total
	}
	return ticks(pid, 14, 15) // utime, stime
}

// ticks returns the sum of some of a process's times, by their numbers in proc_pid_stat(5).
func ticks(pid int, numbers ...int) time.Duration {
	fields := stat(pid)
	var sum int
	for _, n := range numbers {
		if len(fields) < n-2 {
			return 0
		}
		v, err := strconv.Atoi(string(fields[n-3]))
		if err != nil {
			return 0
		}
		sum += v
	}
	return time.Duration(sum) * clockTick
}

// stat returns the fields of a process from the third on. The second, the name, may hold spaces.
func stat(pid int) [][]byte {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
}

// ownMemory returns how many bytes this process has that no file is behind.
func ownMemory() int64 {
	text, _ := os.ReadFile("/proc/self/statm")
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared); err != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}

// cpuTime returns the processor time of a server's processes, those that have ended too.
func (p *process) cpuTime() time.Duration {
	if p == nil || p.err != nil {
		return 0
	}
	total := cpuTime(p.pid) + ticks(p.pid, 16, 17) // cutime, cstime: children that have ended
	for _, pid := range children(p.pid) {
		total += cpuTime(pid)
	}
	return total
}

// memory returns how many bytes a server's processes have together, what they share counted once.
func (p *process) memory() int64 {
	if p == nil || p.err != nil {
		return 0
	}
	var own, shared int64
	for _, pid := range append(children(p.pid), p.pid) {
		status := fmt.Sprintf("/proc/%d/status", pid)
		own += kibibytes(proc(status, "RssAnon"))
		shared = max(shared, kibibytes(proc(status, "RssShmem")))
	}
	return own + shared
}

func kibibytes(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	return n << 10
}

// children returns the processes that a process has started and that run.
func children(parent int) []int {
	paths, _ := filepath.Glob("/proc/[0-9]*")
	var list []int
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(path))
		if fields := stat(pid); len(fields) > 1 && string(fields[1]) == strconv.Itoa(parent) {
			list = append(list, pid)
		}
	}
	return list
}

// onDisk returns how many bytes of disk a folder takes: the blocks that its files have, not their length.
func onDisk(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				sum += blocks(info)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		return err
	})
	return sum, err
}

func blocks(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return info.Size()
}
