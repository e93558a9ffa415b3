// A client of a service as Go programs have it: sockets that never block, an IPv6 socket for datagrams of both families,
// connections kept by net/http, and names by Go's own resolver. Prints what it saw, a line for each look.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"
)

const patience = 5 * time.Second

// A query for the address of `shop.example`, after RFC 1035, section 4.1.
var query = []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01")

func main() {
	switch os.Args[1] {
	case "dial":
		dial(os.Args[2])
	case "refused":
		refused(os.Args[2])
	case "http":
		keepAlive(os.Args[2])
	case "datagrams":
		connected(os.Args[2])
		unconnected(os.Args[2])
	case "resolve":
		resolve(os.Args[2], os.Args[3])
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Go connects without blocking and waits for the socket to become writable, here no longer than it has patience.
func dial(address string) {
	connection, err := net.DialTimeout("tcp", address, patience)
	check(err)
	check(connection.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(connection, "GET /hello HTTP/1.0\r\n\r\n")
	check(err)
	answer, err := io.ReadAll(connection)
	check(err)
	lines := strings.Split(strings.TrimSpace(string(answer)), "\n")
	fmt.Println("peer", connection.RemoteAddr(), lines[len(lines)-1])
}

func refused(address string) {
	_, err := net.DialTimeout("tcp", address, patience)
	fmt.Println("refused", errors.Is(err, syscall.ECONNREFUSED), err)
}

func keepAlive(url string) {
	client := http.Client{Timeout: patience}
	for i := 0; i < 5; i++ {
		trace := httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			fmt.Println("connection", info.Conn.RemoteAddr(), "reused", info.Reused)
		}}
		traced := httptrace.WithClientTrace(context.Background(), &trace)
		request, err := http.NewRequestWithContext(traced, "GET", url, nil)
		check(err)
		response, err := client.Do(request)
		check(err)
		body, err := io.ReadAll(response.Body)
		check(err)
		check(response.Body.Close())
		fmt.Println("answer", response.StatusCode, strings.TrimSpace(string(body)))
	}
}

func connected(address string) {
	socket, err := net.Dial("udp", address)
	check(err)
	check(socket.SetDeadline(time.Now().Add(patience)))
	for i := 0; i < 2; i++ {
		_, err = socket.Write(query)
		check(err)
		answer := make([]byte, 512)
		length, err := socket.Read(answer)
		check(err)
		fmt.Println("connected", socket.RemoteAddr(), last(answer[:length]))
	}
}

func unconnected(address string) {
	to, err := net.ResolveUDPAddr("udp", address)
	check(err)
	socket, err := net.ListenPacket("udp", ":0")
	check(err)
	check(socket.SetDeadline(time.Now().Add(patience)))
	for i := 0; i < 2; i++ {
		_, err = socket.WriteTo(query, to)
		check(err)
		answer := make([]byte, 512)
		length, from, err := socket.ReadFrom(answer)
		check(err)
		fmt.Println("unconnected", from, last(answer[:length]))
	}
}

// The answer ends with its address.
func last(answer []byte) net.IP {
	return net.IP(answer[len(answer)-4:])
}

func resolve(name, missing string) {
	resolver := net.Resolver{PreferGo: true}
	limited, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addresses, err := resolver.LookupHost(limited, name)
	check(err)
	sort.Strings(addresses)
	fmt.Println("addresses", strings.Join(addresses, " "))
	_, ports, err := resolver.LookupSRV(limited, "web", "tcp", name)
	check(err)
	for _, port := range ports {
		fmt.Println("port", port.Port, port.Target)
	}
	for _, address := range addresses {
		names, err := resolver.LookupAddr(limited, address)
		check(err)
		fmt.Println("name", address, strings.Join(names, " "))
	}
	_, err = resolver.LookupHost(limited, missing)
	var why *net.DNSError
	fmt.Println("missing", errors.As(err, &why) && why.IsNotFound)
}
