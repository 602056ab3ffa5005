# kindlift's relay: joins stdin and stdout to a unix socket, after telling what it sees here.
# Runs in the node with nothing but perl-base. Arguments: the socket, and the folder in which containerd
# has what is written to it and not committed: a folder for each ingest, with its reference in `ref` and
# its content in `data`.
#
# Both ways are in frames, because they lead to files and crictls, too: see frames.rs.
use strict;
use warnings;
use Socket qw(AF_UNIX PF_UNSPEC SOCK_DGRAM SOCK_STREAM pack_sockaddr_un);

my ($path, $ingests) = @ARGV;

$SIG{PIPE} = 'IGNORE';

# What the streams lead to by their numbers: files, and the configurations of crictls.
my %streams;

sub slurp {
    my ($path) = @_;
    open(my $in, '<', $path) or return '';
    local $/;
    my $text = <$in>;
    return defined $text ? $text : '';
}

# Writes some of a buffer, from an offset on.
sub write_all {
    my ($to, $buffer, $at, $length) = @_;
    while ($length > 0) {
        my $n = syswrite($to, $$buffer, $length, $at);
        next if !defined $n && $!{EINTR};
        return 0 if !defined $n;
        $at += $n;
        $length -= $n;
    }
    return 1;
}

sub read_some {
    my ($from, $buffer, $at) = @_;
    while (1) {
        my $n = sysread($from, $$buffer, 262144, $at);
        return $n if defined $n || !$!{EINTR};
    }
}

# Opens the file of an ingest. containerd puts its namespace and a number before the reference.
sub ingest {
    my ($reference) = @_;
    opendir(my $dir, $ingests) or return;
    for my $name (grep { !/^\./ } readdir $dir) {
        next if slurp("$ingests/$name/ref") !~ m{^k8s\.io/\d+/\Q$reference\E$};
        open(my $file, '+<', "$ingests/$name/data") or return;
        sysseek($file, 0, 2) or return;
        return $file;
    }
    return;
}

# Sends a frame to the process that writes to stdout.
sub answer {
    my ($answers, $stream, $bytes) = @_;
    return defined send($answers, pack('NN', $stream, length $bytes) . $bytes, 0);
}

# Starts crictl. It asks nobody anything before its configuration, which is the node's own, has come to
# its end: that is when what this returns is closed.
# crictl itself gives a busy node two seconds; kindlift knows better how long it may take.
sub crictl {
    my ($answers, $stream, $name) = @_;
    my ($config, $end);
    my $runner = pipe($config, $end) ? fork : undef;
    if (!defined $runner) {
        answer($answers, $stream, "2cannot start crictl: $!") and answer($answers, $stream, '?1');
        return;
    }
    if ($runner == 0) {
        %streams = ();
        close $end;
        my @program = ('crictl', '--timeout', '60s', 'inspecti', '-o', 'json', $name);
        my $status = run($answers, $stream, $config, @program);
        answer($answers, $stream, "2cannot run crictl: $!") if !defined $status;
        answer($answers, $stream, '?' . ($status // 1));
        exit 0;
    }
    my $own = slurp($ENV{CRI_CONFIG_FILE} // '/etc/crictl.yaml') . "\n";
    write_all($end, \$own, 0, length $own);
    return $end;
}

# Runs a program: passes on what it writes to stdout and to stderr, and returns how it ended.
sub run {
    my ($answers, $stream, $config, @program) = @_;
    # Whoever waits for the end of what the relay has open does not wait for this process.
    open(STDIN, '<', '/dev/null') and open(STDOUT, '>', '/dev/null') and open(STDERR, '>', '/dev/null')
        or return;
    $SIG{CHLD} = 'DEFAULT';
    pipe(my $out, my $its_out) and pipe(my $err, my $its_err) or return;
    my $pid = fork;
    return if !defined $pid;
    if ($pid == 0) {
        $SIG{PIPE} = 'DEFAULT';
        $ENV{CRI_CONFIG_FILE} = '/dev/stdin';
        # What is said of a program that is not there is our own.
        no warnings 'exec';
        open(STDIN, '<&', $config) and open(STDOUT, '>&', $its_out) and open(STDERR, '>&', $its_err)
            and exec { $program[0] } @program;
        syswrite($its_err, "cannot start $program[0]: $!");
        exit 127;
    }
    close $_ for $config, $its_out, $its_err;
    my %open = (1 => $out, 2 => $err);
    while (%open) {
        my $ready = '';
        vec($ready, fileno $_, 1) = 1 for values %open;
        next if select($ready, undef, undef, undef) < 0;
        for my $number (keys %open) {
            next if !vec($ready, fileno $open{$number}, 1);
            my $n = sysread($open{$number}, my $bytes, 32768);
            if (!$n) {
                delete $open{$number};
            } else {
                answer($answers, $stream, $number . $bytes) or return;
            }
        }
    }
    waitpid $pid, 0;
    # As a shell has it, for a program that was killed.
    return $? & 127 ? 128 + ($? & 127) : $? >> 8;
}

# Gives what the socket says, and what crictls do, to stdout.
sub give {
    my ($socket, $answers) = @_;
    my ($buffer, $frame, $any) = ("\0" x 8, '', '');
    vec($any, fileno $_, 1) = 1 for $socket, $answers;
    while (1) {
        my $ready = $any;
        next if select($ready, undef, undef, undef) < 0;
        if (vec($ready, fileno $answers, 1) && defined recv($answers, $frame, 65536, 0)) {
            return if !write_all(\*STDOUT, \$frame, 0, length $frame);
        }
        if (vec($ready, fileno $socket, 1)) {
            my $n = read_some($socket, \$buffer, 8) or return;
            substr($buffer, 0, 8) = pack 'NN', 0, $n;
            return if !write_all(\*STDOUT, \$buffer, 0, 8 + $n);
        }
    }
}

# Takes frames apart until stdin ends.
sub take {
    my ($socket, $answers) = @_;
    my ($stream, $left, $buffer) = (0, 0, '');
    # F_SETPIPE_SZ. Linux gives as much to anybody, if stdin is a pipe at all.
    my $roomy = (fcntl(STDIN, 1031, 1 << 20) || 0) >= 1 << 20;
    while (my $read = read_some(\*STDIN, \$buffer, length $buffer)) {
        my $at = 0;
        while (1) {
            my $there = length($buffer) - $at;
            if ($left == 0) {
                last if $there < 8;
                ($stream, $left) = unpack 'NN', substr($buffer, $at, 8);
                $at += 8;
                delete $streams{$stream} if $left == 0;
                next;
            }
            if ($stream != 0 && !exists $streams{$stream}) {
                # What it is to lead to is short, and wanted whole.
                last if $there < $left;
                my ($kind, $name) = split / /, substr($buffer, $at, $left), 2;
                $streams{$stream} =
                    $kind eq 'crictl' ? crictl($answers, $stream, $name) : ingest($name);
                $at += $left;
                $left = 0;
                next;
            }
            last if $there == 0;
            my $n = $there < $left ? $there : $left;
            if ($stream == 0) {
                return if !write_all($socket, \$buffer, $at, $n);
            } elsif (defined $streams{$stream}) {
                # What is not written is missing in the end, and noticed there.
                write_all($streams{$stream}, \$buffer, $at, $n) or $streams{$stream} = undef;
            }
            $at += $n;
            $left -= $n;
        }
        substr($buffer, 0, $at) = '';
        # The rest of a large layer's frame is sure to come, in pieces that each wake this process and
        # whoever writes them. A little later they are there together; none has to wait for room.
        select(undef, undef, undef, 0.003)
            if $roomy && $stream != 0 && $left > 65536 && $read < 131072;
    }
}

socket(my $socket, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!\n";
connect($socket, pack_sockaddr_un($path)) or die "cannot connect to $path: $!\n";

my $machine = `uname -m`;
chomp $machine;
my @df = split ' ', (split /\n/, `df -Pk /var/lib/containerd 2>/dev/null`)[1] || '';
my $free = @df > 3 ? $df[3] * 1024 : '';
my $disk = (stat '/var/lib/containerd')[0] || '';
my $discard = slurp('/etc/containerd/config.toml') =~ /^\s*discard_unpacked_layers\s*=\s*true/m ? 1 : 0;
my @binfmt;
if (opendir(my $dir, '/proc/sys/fs/binfmt_misc')) {
    for my $name (grep { !/^\./ && $_ ne 'register' && $_ ne 'status' } readdir $dir) {
        push @binfmt, $name if slurp("/proc/sys/fs/binfmt_misc/$name") =~ /^enabled/;
    }
}
my $hello = "kindlift 1\nmachine $machine\nfree $free\ndisk $disk\ndiscard $discard\nbinfmt @binfmt\n\n";
write_all(\*STDOUT, \$hello, 0, length $hello) or exit 1;

# What goes through is whole frames, whoever sends.
socketpair(my $answers, my $to_give, AF_UNIX, SOCK_DGRAM, PF_UNSPEC) or die "socketpair: $!\n";
my $child = fork;
defined $child or die "fork: $!\n";
if ($child == 0) {
    close $answers;
    # Nobody waits for those that run crictl.
    $SIG{CHLD} = 'IGNORE';
    take($socket, $to_give);
    shutdown($socket, 1);
    exit 0;
}
close $to_give;
give($socket, $answers);
# The other half may wait on stdin for ever.
kill 'KILL', $child;
waitpid $child, 0;
