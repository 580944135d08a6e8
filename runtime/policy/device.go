package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Device names devices by their numbers: one, all of a major number, or all of a type. It is the name of a member of
// KeyDevices in the form of its String: "c:1:3", "b:8:*", "c:*:*".
type Device struct {
	Type         byte  // 'c' or 'b'
	Major, Minor int64 // AnyNumber: every one
}

// AnyNumber stands for every major or minor number.
const AnyNumber = -1

// Bounds of the kernel's device numbers.
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// ParseDevice reads the name of a member of KeyDevices.
func ParseDevice(s string) (Device, error) {
	bad := fmt.Errorf("%.60q is not a device such as c:1:3, b:8:* or c:*:*", s)
	kind, numbers, _ := strings.Cut(s, ":")
	major, minor, ok := strings.Cut(numbers, ":")
	if !ok || kind != "c" && kind != "b" {
		return Device{}, bad
	}
	d := Device{Type: kind[0]}
	if d.Major, ok = deviceNumber(major, maxMajor); !ok {
		return Device{}, bad
	}
	if d.Minor, ok = deviceNumber(minor, maxMinor); !ok || d.Major == AnyNumber && d.Minor != AnyNumber {
		return Device{}, bad
	}
	return d, nil
}

func deviceNumber(s string, most int64) (n int64, ok bool) {
	if s == "*" {
		return AnyNumber, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && n <= most && s[0] != '+'
}

// String is the member's name.
func (d Device) String() string {
	number := func(n int64) string {
		if n == AnyNumber {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return string(d.Type) + ":" + number(d.Major) + ":" + number(d.Minor)
}

// Covers reports whether every device that e names is named by d.
func (d Device) Covers(e Device) bool {
	return d.Type == e.Type && (d.Major == AnyNumber || d.Major == e.Major) && (d.Minor == AnyNumber || d.Minor == e.Minor)
}

// Disk names a block device by its numbers. It is the name of a member of KeyIORead and KeyIOWrite in the form of its String,
// that of the kernel's own files: "8:0".
type Disk struct{ Major, Minor int64 }

// ParseDisk reads the name of a member of KeyIORead or KeyIOWrite.
func ParseDisk(s string) (Disk, error) {
	major, minor, _ := strings.Cut(s, ":")
	var d Disk
	var ok, also bool
	d.Major, ok = deviceNumber(major, maxMajor)
	d.Minor, also = deviceNumber(minor, maxMinor)
	if !ok || !also || d.Major == AnyNumber || d.Minor == AnyNumber {
		return Disk{}, fmt.Errorf("%.60q is not the major and minor number of a disk such as 8:0 (lsblk shows them)", s)
	}
	return d, nil
}

// String is the member's name.
func (d Disk) String() string {
	return strconv.FormatInt(d.Major, 10) + ":" + strconv.FormatInt(d.Minor, 10)
}
