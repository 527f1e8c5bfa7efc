package node

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// lookUpWait is how long a name may take to resolve while a node starts.
	lookUpWait = 5 * time.Second
	// elsewhere is an address that no machine has (RFC 5737, TEST-NET-1): the way there is the
	// default route. Nothing is sent to it.
	elsewhere = "192.0.2.1:9"
)

// bind opens the node's socket and finds the address to tell others.
func bind(cfg Config) (net.PacketConn, string, error) {
	conn, err := listen(cfg.Listen)
	if err != nil {
		return nil, "", err
	}
	addr, err := advertised(cfg, conn.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		return nil, "", errors.Join(err, conn.Close())
	}
	return conn, addr, nil
}

// listen binds the node's UDP port, or says who has it.
func listen(addr string) (*net.UDPConn, error) {
	addr = cmp.Or(addr, defaultPort)
	udp, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, &usageError{fmt.Sprintf("--listen %s: want HOST:PORT or :PORT: %v", addr, err)}
	}
	conn, err := net.ListenUDP("udp", udp)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("UDP port %d is in use%s: choose another with --listen :PORT: %w", udp.Port, portHolder(udp.Port), syscall.EADDRINUSE)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, &usageError{fmt.Sprintf("--listen %s: this machine does not have that address", addr)}
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return conn, nil
}

// portHolder is who has a UDP port, as " by pid 42 (name)", as far as Linux tells this user.
func portHolder(port int) string {
	for _, table := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		for _, inode := range socketsAt(table, port) {
			fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
			if err != nil {
				return ""
			}
			for _, fd := range fds {
				if to, err := os.Readlink(fd); err != nil || to != "socket:["+inode+"]" {
					continue
				}
				pid := strings.Split(fd, "/")[2]
				name, _ := os.ReadFile("/proc/" + pid + "/comm")
				return fmt.Sprintf(" by pid %s (%s)", pid, strings.TrimSpace(string(name)))
			}
		}
	}
	return ""
}

// socketsAt lists the inodes of the sockets on a local port: fields 2, ADDRESS:PORT in hex, and
// 10 of each line (proc(5)).
func socketsAt(table string, port int) (inodes []string) {
	f, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 9 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			inodes = append(inodes, fields[9])
		}
	}
	return inodes
}

// advertised is the address that others reach this node at: the one that was given, the one
// bound, or the one from which the first of the seeds is reached; without seeds, that of the
// default route. One that the seeds cannot reach is refused.
func advertised(cfg Config, bound netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookUpWait)
	defer cancel()
	addr, flag := bound, "--listen"
	switch {
	case cfg.Advertise != "":
		var err error
		if addr, err = parseAdvertise(ctx, cfg.Advertise, bound.Port()); err != nil {
			return "", err
		}
		flag = "--advertise"
	case bound.Addr().IsUnspecified():
		addr, flag = netip.AddrPortFrom(ownAddr(ctx, cfg.Join), bound.Port()), "the default of --advertise,"
	}
	switch remote := firstRemote(ctx, cfg.Join); {
	case addr.Addr().IsUnspecified(), addr.Port() == 0:
		return "", &usageError{fmt.Sprintf("%s %s: others cannot send there: give --advertise an address of this machine", flag, addr)}
	case addr.Addr().IsLoopback() && remote != "":
		return "", &usageError{fmt.Sprintf("%s %s: %s, on another machine, cannot send there: give --advertise an address that it reaches", flag, addr, remote)}
	}
	return addr.String(), nil
}

// parseAdvertise reads HOST or HOST:PORT; without a port it is the one bound.
func parseAdvertise(ctx context.Context, text string, port uint16) (netip.AddrPort, error) {
	host := text
	if h, p, err := net.SplitHostPort(text); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return netip.AddrPort{}, &usageError{fmt.Sprintf("--advertise %s: a port is a number from 1 to 65535", text)}
		}
		host, port = h, uint16(n)
	}
	ip, err := resolve(ctx, host)
	if err != nil {
		return netip.AddrPort{}, &usageError{fmt.Sprintf("--advertise %s: want HOST or HOST:PORT: %v", text, err)}
	}
	return netip.AddrPortFrom(ip, port), nil
}

// resolve returns an address of a host, IPv4 first, as the mux does when it dials.
func resolve(ctx context.Context, host string) (ip netip.Addr, err error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap(), nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
	if err != nil {
		ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	return ips[0].Unmap(), nil // there is one, or an error
}

// ownAddr is the address of this machine from which the first seed that has a route is reached,
// else any that is not loopback, else that.
func ownAddr(ctx context.Context, seeds []string) netip.Addr {
	for _, to := range append(seeds[:len(seeds):len(seeds)], elsewhere) {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", to) // finds the route, and sends nothing
		if err != nil {
			continue
		}
		own := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		conn.Close()
		return own
	}
	addrs, _ := net.InterfaceAddrs() // none is as good as an error
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr()
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// firstRemote is the first seed that is not on loopback, "" if there is none. A name that does
// not resolve yet is none.
func firstRemote(ctx context.Context, seeds []string) string {
	for _, seed := range seeds {
		host, _, err := net.SplitHostPort(seed)
		if err != nil {
			continue
		}
		if ip, err := resolve(ctx, host); err == nil && !ip.IsLoopback() {
			return seed
		}
	}
	return ""
}
