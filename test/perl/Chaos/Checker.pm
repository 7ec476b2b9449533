
=pod

=head1 NAME

Chaos::Checker - decides from what the clients were told and what is there now, whether every promise was kept

=head1 SYNOPSIS

  use Chaos::Checker;

  my $run = Chaos::Checker->new;
  $run->read_log($file) foreach @logs;      # of Chaos::Client
  $run->read_edits($file) foreach @edits;   # of Chaos::Editor
  $run->committed(@attempts);               # rows of the ledger
  $run->committed_elsewhere(@attempts);     # of that of an old primary whose relay went on
  $run->waiting(@payloads);                 # left in the outbox, and
  $run->dead(@payloads);
  $run->stored($stream, $sequence, $subject, $payload, $time) foreach ...;     # in the order of the stream
  $run->read_boxes(@files);                 # which messages they saw, and when
  $run->read_probes($node, $file);          # of Chaos::Probe
  $run->read_faults($file);                 # their times and names
  $run->read_reader($file);                 # of Chaos::Reader
  $run->read_wal($file);                    # of Chaos::WalWatch
  $run->kept($sequence, $subject, $payload, $time) foreach ...;     # of the stream of kept rows, and
  $run->kept_row($delivery, $key, $version);                        # what these are in the end

  foreach my $rule ($run->rules) { my ($checked, @violations) = $run->check($rule); }
  my %count = $run->counts;

=head1 DESCRIPTION

Knows nothing of the extension but what its README promises. A rule is its sentence; check() returns how often there was
something that it could have been broken by, and a line for each time that it was.

=cut

package Chaos::Checker;

use strict;
use warnings FATAL => 'all';

use JSON::PP;
use List::Util qw(max);

use Chaos::Plan;

# What the kernel keeps of what PostgreSQL has sent and a box has not read.
our $BOX_BYTES = 32768;

# By so much a box may see later what was sent in time: a slow network keeps it for 0.4 s, and machines are slow.
my $LATE_SECONDS = 0.6;

# The clocks are one, their times are rounded.
my $ROUNDED_SECONDS = 0.01;

# What can be sent twice in the time that is left when a server is given up.
my $RIDDEN_OUT_BYTES = 256 * 1024;

# A node is probed at least so often, and usually. On a machine that has no time for that there is none for a connection in half a second.
my ($PROBED_SECONDS, $USUALLY_PROBED_SECONDS) = (0.6, 0.3);

# It is well if it answers in less: that is a few times in the half second in which a connection is to be made.
my $WELL_SECONDS = 0.15;

# After a fault has begun or ended, for what comes of it to be seen.
my $SETTLED_SECONDS = 0.5;

# A server hangs for all of a call when it does from here on: the time that is left when it is given up is a quarter.
my $AT_ONCE_SECONDS = 0.3;
my $HANGS = qr/^(?:server_(?:hang|stop)|box_(?:hang|silence|hold|cut|end)|network_cut)$/;

# What a call or COMMIT may be told when servers, networks and sessions fail: the README's table of errors, and
# PostgreSQL's own for what the harness does to it.
my %KNOWN = map { $_ => 1 } qw(58000 58030 42704 53400 53000 38000 23505
	57014 57P01 57P02 57P03 25P02 22012);

# After these the message may be stored or not.
my %EITHER = map { $_ => 1 } qw(58030 57014 57P01 57P02 57P03 lost 25P02);

# For these a stream has certainly not stored it.
my $REFUSED = qr/: (?:no stream takes this subject|maximum messages exceeded \(JetStream error 10077\))(?!; it was sent before)/;

my %CRITICAL = map { $_ => 1 } qw(async held atomic change_on_commit change_async kept_on_commit);
my %AT_COMMIT = map { $_ => 1 } qw(held atomic change_on_commit kept_on_commit);

# What the relays publish, and of this what goes through the WAL.
my %WAL = map { $_ => 1 } qw(wal gone change_wal kept_wal);
my %OUTBOX = map { $_ => 1 } qw(outbox change_outbox late unheard noack large kept_outbox), keys %WAL;

# Streams to whose subjects only relays publish, by rows of which the ids are known.
my @ORDERED = qw(CHAOS_OUTBOX CHAOS_LATE CHAOS_UNHEARD CHAOS_NOACK);

# Those to which what is in the WAL is published.
my @WAL_STREAMS = qw(CHAOS_WAL CHAOS_GONE);

# So long after a message was edited or deleted it may still be sent as it was: it waits for the message before it, and
# then is on its way, for ack_timeout each; and a box may hold it.
my $EDITED_SECONDS = 2 * $Chaos::Plan::ACK_TIMEOUT + $Chaos::Plan::LONGEST + 4;

# In a calm, the relays need so long to find the servers again, and then so long for a message; and that many times as long as
# a probe, which goes the way to a node and back once.
my ($RELAY_SETTLED_SECONDS, $HEALTHY_SECONDS, $HEALTHY_PROBES) = (6, 2, 10);

# In so long WAL is moved to the table when it is time for that.
my $MOVED_SECONDS = 5;

# When a relay has just begun, it reads what it has read before.
my $RELAY_BEGINS_SECONDS = 2;

# After a call of nats_publish_rows() has failed, its session may be known to be lost before its locks are gone, or later.
my $LOST_SECONDS = 1;

my @RULES = (
	[ 'what was told to be committed is committed, and nothing that was told not to be' => '_end_of_transaction' ],
	[ 'every critical message of a committed transaction is stored' => '_critical' ],
	[ 'every PubAck is true' => '_acknowledged' ],
	[ 'no message that was held for a COMMIT is stored without one' => '_held' ],
	[ 'what is held for a COMMIT is on its way while that lasts, and not later' => '_on_its_way' ],
	[ 'nothing fails for a server that hangs while another one is well' => '_ridden_out' ],
	[ 'no message for the outbox is stored unless it was committed' => '_outbox_phantom' ],
	[ 'every committed message of the outbox is stored' => '_outbox' ],
	[ 'a message of the outbox that was edited is stored as it is by then; or, under the same id, as it was' => '_edited' ],
	[ 'what was edited or deleted is not sent much later' => '_sent_late' ],
	[ 'what no server takes is given up, and nothing else' => '_given_up' ],
	[ 'messages of the outbox go on while others wait' => '_healthy' ],
	[ 'WAL is kept for what is not published no longer than it may be' => '_wal_let_go' ],
	[ 'no message is stored twice' => '_twice' ],
	[ 'what one session published synchronously is in its order' => '_order_sync' ],
	[ 'what the relay published of one subject is in its order' => '_order_outbox' ],
	[ 'what was published from the WAL is in the order of the commits' => '_order_wal' ],
	[ 'each row is in the stream once more when nats_publish_rows() has succeeded' => '_rows_read' ],
	[ 'no row is published behind a newer one of the same key' => '_rows_in_order' ],
	[ 'what the stream has last of each row is what it is' => '_rows_last' ],
	[ 'an atomic batch is stored as a whole, in its order, with nothing in between' => '_atomic' ],
	[ 'a message that could not be published is not stored' => '_refused' ],
	[ 'what COMMIT tells of its messages is true' => '_told_by_commit' ],
	[ 'every error is a documented one' => '_documented' ],
	[ 'nothing is stored that nobody has published, and all as it was' => '_invented' ]);

sub new
{
	my ($class, %args) = @_;
	# attempts, by name: a hash of name, end, end_at, done, done_at, text, detail, anonymous, impatient, bytes (of the calls
	# so far), modes (a hash of them), and of its calls and waits in their order; a call is a hash of message, mode, bytes,
	# told, text, stream, seq, undone, flushed; a wait is one of from, to, told, text, bytes, streams
	# edits, of the messages of the outbox, by their first names, in their order: a hash of edit (whose row is in the ledger), from, done_at, and
	# to, length, subject, new_id, unless it was deleted
	# kept, by delivery and key, in the order of their stream: a hash of delivery, key, version, attempt, op, seq, stored_at
	return bless { wal_began => $args{wal_began}, timeless => {}, kept => {}, kept_changes => {}, rows => [], runs => [], failed_runs => [], wal => {}, attempts => {}, calls => {}, edits => {}, becomes => {}, touched => {}, seen => {}, boxes => 1, probes => {}, faults => [], committed => {}, elsewhere => {},
		stored => {}, streams => {}, waiting => [], dead => [], strict => $args{strict} // 1, canary => $args{canary} // 0 }, $class;
}

sub read_log
{
	my ($self, $file) = @_;
	open(my $log, '<', $file) or die "$file: $!";
	my ($attempt, %call, %modes);
	while (my $line = <$log>)
	{
		chomp $line;
		my ($time, $event, @fields) = split /\t/, $line, -1;
		if ($event eq 'begin')
		{
			$attempt = $self->{attempts}{ $fields[0] } = { name => $fields[0], anonymous => $fields[1], impatient => $fields[2],
				calls => [], waits => [], bytes => 0, modes => {} };
			%call = ();
		}
		elsif ($event eq 'call')
		{
			my $call = $call{ $fields[0] } = { number => scalar @{ $attempt->{calls} }, message => $fields[0], mode => $fields[1], bytes => $fields[2] // 0, attempt => $attempt };
			$attempt->{bytes} += $call->{bytes};
			$attempt->{modes}{ $fields[1] } = $modes{ $fields[1] } = 1;
			push @{ $attempt->{calls} }, $call;
			push @{ $self->{calls}{ $fields[0] } }, $call;
		}
		elsif ($event eq 'told') { _told($call{ $fields[0] }, @fields[ 1 .. $#fields ]); }
		elsif ($event eq 'undone') { $call{ $fields[0] }{undone} = 1; }
		elsif ($event eq 'flushed')
		{
			$_->{flushed} = 1 foreach grep { !$_->{undone} && ($_->{told} // '') eq 'ok' && $_->{mode} =~ /async$/ } values %call;
		}
		elsif ($event eq 'end') { @$attempt{qw(end end_at)} = ($fields[0], $time); }
		elsif ($event eq 'done') { @$attempt{qw(done text detail done_at)} = (@fields[ 0 .. 2 ], $time); }
		elsif ($event eq 'waited')
		{
			my %wait = (from => $fields[0], to => $time, told => $fields[1], text => $fields[2] // '', bytes => $attempt->{bytes});
			# nats_flush() waits for messages of earlier transactions too
			my $waited_for = $wait{text} =~ /not acknowledged in time/ ? \%modes : $attempt->{modes};
			push @{ $attempt->{waits} }, { %wait, streams => _streams($waited_for) };
		}
		else { die "$file: $line"; }
	}
	return;
}

# Those that modes have published to themselves.
sub _streams
{
	my ($modes) = @_;
	my %streams = map { (s/^(change|kept)_.*/$1/r => 1) } grep { !$OUTBOX{$_} } keys %$modes;
	return [ sort keys %streams ];
}

sub _told
{
	my ($call, $told, @more) = @_;
	if ($told ne 'ok')
	{
		# that of an await does not take back that it was taken
		@$call{ ($call->{told} // '') eq 'ok' ? 'awaited' : 'told', 'text' } = ($told, $more[0]);
		return;
	}
	$call->{told} = 'ok';
	@$call{ 'stream', 'seq' } = @more if ($more[0] // '') ne '';
	$call->{row} = $more[1] if ($more[0] // '') eq '' && ($more[1] // '') ne '';
	return;
}

sub read_edits
{
	my ($self, $file) = @_;
	my @edits;
	foreach my $fields (_lines($file))
	{
		my ($time, $event, $edit, @more) = @$fields;
		if ($event eq 'begin') { @edits = (); }
		elsif ($event eq 'touch')
		{
			$self->{touched}{ $more[0] }++;
			$self->{timeless}{ _first_name($more[1]) } = 1 if $more[0] eq 'no_time';
		}
		elsif ($event eq 'done') { $_->{done_at} = $time foreach @edits; }
		elsif ($event =~ /^(edit|delete)$/)
		{
			my %change = (edit => $edit);
			@change{qw(from to length subject new_id)} = @more;
			push @edits, \%change;
			push @{ $self->{edits}{ _first_name($change{from}) } }, \%change;
			$self->{becomes}{ $change{to} } = \%change if $event eq 'edit';
		}
	}
	return;
}

sub committed { my ($self, @names) = @_; $self->{committed}{$_} = 1 foreach @names; return; }
sub committed_elsewhere { my ($self, @names) = @_; $self->{elsewhere}{$_} = 1 foreach @names; return; }
sub waiting { my ($self, @payloads) = @_; push @{ $self->{waiting} }, map { _name($_) } @payloads; return; }
sub dead { my ($self, @payloads) = @_; push @{ $self->{dead} }, map { _name($_) } @payloads; return; }

sub stored
{
	my ($self, $stream, $seq, $subject, $payload, $time) = @_;
	my $message = { stream => $stream, seq => $seq, subject => $subject, name => _name($payload), payload => $payload, stored_at => $time };
	push @{ $self->{stored}{ $message->{name} } }, $message;
	push @{ $self->{streams}{$stream} }, $message;
	return;
}

sub read_boxes
{
	my ($self, @files) = @_;
	$self->{boxes} = @files;
	foreach my $fields (map { _lines($_) } @files)
	{
		push @{ $self->{seen}{ $fields->[1] } }, $fields->[0];
	}
	return;
}

sub read_probes
{
	my ($self, $node, $file) = @_;
	my %rounds;
	foreach my $fields (_lines($file))
	{
		my ($sent, $stream, $seconds) = @$fields;
		$rounds{$sent}{$stream} = $seconds ne '' ? $seconds : 'inf';
	}
	$self->{probes}{$node} = [ map { { sent => $_, streams => $rounds{$_} } } sort { $a <=> $b } keys %rounds ];
	return;
}

sub read_faults
{
	my ($self, $file) = @_;
	foreach my $fields (_lines($file))
	{
		my ($time, $what, $node) = @$fields;
		push @{ $self->{faults} }, { at => $time, what => $what, node => $node };
	}
	return;
}

# A run may take several calls.
sub read_reader
{
	my ($self, $file) = @_;
	my %began;
	foreach my $fields (_lines($file))
	{
		my ($time, $event, $delivery, @told) = @$fields;
		if ($event eq 'call') { $began{$delivery} //= $time; }
		elsif ($told[0] eq 'ok') { push @{ $self->{runs} }, { delivery => $delivery, from => delete $began{$delivery} }; }
		else { push @{ $self->{failed_runs} }, { delivery => $delivery, at => $time, told => $told[0], text => $told[-1] }; }
	}
	return;
}

sub read_wal
{
	my ($self, $file) = @_;
	foreach my $fields (_lines($file))
	{
		my ($time, $database, $written, $confirmed) = @$fields;
		push @{ $self->{wal}{$database} }, { at => $time, written => $written, confirmed => $confirmed };
	}
	return;
}

sub kept
{
	my ($self, $seq, $subject, $payload, $time) = @_;
	my $message = decode_json($payload);
	my ($delivery) = $subject =~ /^chaos\.kept\.(\w+)\./;
	my %kept = (%{ $message->{new} }, delivery => $delivery, op => $message->{op}, seq => $seq, stored_at => $time);
	push @{ $self->{kept}{$delivery}{ $kept{key} } }, \%kept;
	$self->{kept_changes}{ $kept{message} } = 1 unless $kept{op} eq 'read';
	return;
}

sub kept_row
{
	my ($self, $delivery, $key, $version) = @_;
	push @{ $self->{rows} }, { delivery => $delivery, key => $key, version => $version };
	return;
}

sub _lines
{
	my ($file) = @_;
	open(my $lines, '<', $file) or return;
	return map { chomp; [ split /\t/, $_, -1 ] } <$lines>;
}

sub _name { return (split /\|/, $_[0], 2)[0]; }
sub _first_name { return $_[0] =~ s/~.*//r; }

sub rules { return map { $_->[0] } @RULES; }

sub check
{
	my ($self, $rule) = @_;
	my ($method) = map { $_->[1] } grep { $_->[0] eq $rule } @RULES;
	local @$self{ 'checked', 'violations' } = (0, []);
	$self->$method;
	return ($self->{checked}, sort @{ $self->{violations} });
}

# One thing that the rule speaks of, and whether it holds.
sub _hold
{
	my ($self, $holds, @what) = @_;
	$self->{checked}++;
	push @{ $self->{violations} }, join ' ', @what unless $holds;
	return;
}

sub _attempts { my ($self) = @_; return values %{ $self->{attempts} }; }
sub _is_committed { my ($self, $attempt) = @_; return $self->{committed}{ $attempt->{name} }; }
sub _is_committed_anywhere { my ($self, $name) = @_; return $self->{committed}{$name} || $self->{elsewhere}{$name}; }
sub _is_stored { my ($self, $message) = @_; return exists $self->{stored}{$message} || exists $self->{kept_changes}{$message}; }

# A standby that is promoted has no slot, before PostgreSQL 17: what was not published until the WAL is published again is not. Nor is a row that
# was there already when its transaction was tried again.
sub _may_be_lost
{
	my ($self, $call) = @_;
	return 0 unless $WAL{ $call->{mode} } && defined $self->{wal_began};
	my @calls = $call->{mode} eq 'change_wal' ? grep { $self->_is_committed($_->{attempt}) } @{ $self->{calls}{ $call->{message} } } : $call;
	return scalar grep { $_->{attempt}{end_at} < $self->{wal_began} } @calls;
}

# The calls of committed attempts that were not taken back.
sub _committed_calls
{
	my ($self) = @_;
	return grep { !$_->{undone} && ($_->{told} // '') eq 'ok' } map { @{ $_->{calls} } } grep { $self->_is_committed($_) } $self->_attempts;
}

sub _end_of_transaction
{
	my ($self) = @_;
	foreach my $attempt ($self->_attempts)
	{
		my $done = $attempt->{done} // 'never told';
		my $end = $attempt->{end} // 'rollback';
		if ($done eq 'committed') { $self->_hold($self->_is_committed($attempt), "$attempt->{name} was committed and is not"); }
		elsif ($done !~ /^(lost|unknown|never told)$/ || $end eq 'rollback')
		{
			$self->_hold(!$self->_is_committed($attempt), "$attempt->{name} is committed; it was told $done");
		}
	}
	return;
}

sub _critical
{
	my ($self) = @_;
	$self->_hold($self->_is_stored($_->{message}), "$_->{mode} $_->{message} of $_->{attempt}{name} is not stored")
		foreach grep { $CRITICAL{ $_->{mode} } } $self->_committed_calls;
	return;
}

# Of nats_publish, nats_await and nats_futures: stored, and there. Of nats_flush, change_sync: stored.
sub _acknowledged
{
	my ($self) = @_;
	foreach my $call (map { @{ $_->{calls} } } $self->_attempts)
	{
		my $where = defined $call->{seq} ? "$call->{stream} $call->{seq}" : undef;
		my ($at) = grep { !defined $where || "$_->{stream} $_->{seq}" eq $where } @{ $self->{stored}{ $call->{message} } // [] };
		next unless defined $where || $call->{flushed} || ($call->{mode} eq 'change_sync' && ($call->{told} // '') eq 'ok');
		$self->_hold($at, "$call->{mode} $call->{message} of $call->{attempt}{name} was acknowledged and is not stored",
			defined $where ? "at $where, but at " . join(', ', map { "$_->{stream} $_->{seq}" } @{ $self->{stored}{ $call->{message} } // [] }) : ());
	}
	return;
}

# Messages of these modes that are stored though no call of them is one that may have led to that.
sub _phantoms
{
	my ($self, $modes, $may_be_stored, $why_not) = @_;
	foreach my $message (keys %{ $self->{calls} })
	{
		my $calls = $self->{calls}{$message};
		next unless $modes->{ $calls->[0]{mode} };
		next if grep { !$_->{undone} && $may_be_stored->($_->{attempt}) } @$calls;
		$self->_hold(!$self->_is_stored($message), "$calls->[0]{mode} $message is stored, and $why_not");
	}
	return;
}

# A COMMIT that failed may have stored some: the README's first limit.
sub _held
{
	my ($self) = @_;
	$self->_phantoms(\%AT_COMMIT, sub { ($_[0]{end} // '') eq 'commit' }, 'no COMMIT was sent for it');
	return;
}

# By the boxes; the stream's own time counts for what no box has seen. A COMMIT that has failed can't take back what is in
# the kernels of other machines.
sub _on_its_way
{
	my ($self) = @_;
	my %late;
	foreach my $message (keys %{ $self->{calls} })
	{
		my $calls = $self->{calls}{$message};
		next unless $AT_COMMIT{ $calls->[0]{mode} };
		my @commits = map { $_->{attempt} } grep { !$_->{undone} && ($_->{attempt}{end} // '') eq 'commit' } @$calls;
		foreach my $time (@{ $self->{seen}{$message} // [ map { $_->{stored_at} // () } @{ $self->{stored}{$message} // [] } ] })
		{
			next if grep { $time > $_->{end_at} - $ROUNDED_SECONDS && $time < _on_its_way_until($_) } @commits;
			my ($failed) = grep { $time > $_->{end_at} } reverse @commits;
			$late{ $failed->{name} }{$message} = $calls->[0]{bytes} if $failed;
			$self->_hold(0, "$calls->[0]{mode} $message was on its way at $time, without a COMMIT") unless $failed;
		}
	}
	foreach my $attempt (grep { defined $_->{done_at} && ($_->{end} // '') eq 'commit' } $self->_attempts)
	{
		my ($messages, $bytes) = ($late{ $attempt->{name} } // {}, 0);
		$bytes += $_ foreach values %$messages;
		$self->_hold($bytes <= $BOX_BYTES * $self->{boxes}, keys(%$messages) . " held messages of $attempt->{name}, $bytes bytes,",
			"were on their way more than $LATE_SECONDS s after it was told $attempt->{done} at $attempt->{done_at}");
	}
	return;
}

# Of a session that was lost it is not known when it ended, but for one that was ended in order.
sub _on_its_way_until
{
	my ($attempt) = @_;
	my $open = !defined $attempt->{done} || ($attempt->{done} eq 'lost' && ($attempt->{detail} // '') !~ /administrator command/);
	return $open ? 'inf' : $attempt->{done_at} + $LATE_SECONDS;
}

# What has ids and the time that it is promised, in a time when a node does all of its work, and no fault begins or ends but
# one at the beginning. A flush waits for what was sent before it: that can be lost with a stream's leader, and is not sent
# again on a connection that lives.
sub _ridden_out
{
	my ($self) = @_;
	foreach my $attempt (grep { !$_->{anonymous} && !$_->{impatient} } $self->_attempts)
	{
		foreach my $wait (grep { $_->{told} =~ /^(ok|58000|58030)$/ && @{ $_->{streams} } && $_->{bytes} <= $RIDDEN_OUT_BYTES } @{ $attempt->{waits} })
		{
			next if $self->_is_disturbed($wait) || $wait->{text} =~ /You can wait again for what is pending/;
			my ($well) = grep { $self->_is_well($_, $wait) } sort keys %{ $self->{probes} } or next;
			$self->_hold($wait->{told} eq 'ok', "$attempt->{name}, from $wait->{from} to $wait->{to} with node $well well:", @$wait{ 'told', 'text' });
		}
	}
	return;
}

# A slow network is not one that hangs.
sub _is_disturbed
{
	my ($self, $wait) = @_;
	my (%slow, $began);
	# what happened to a session or to PostgreSQL is nothing to the servers
	foreach my $fault (grep { $_->{at} < $wait->{to} && $_->{what} =~ /^(server|network|box|boxes|commits|stream|step)_/ } @{ $self->{faults} })
	{
		$slow{ $fault->{node} } = $fault->{what} eq 'network_slow' if $fault->{what} =~ /^network/;
		next if $fault->{at} < $wait->{from} - $SETTLED_SECONDS;
		return 1 if $began++ || $fault->{what} !~ $HANGS || $fault->{at} > $wait->{from} + $AT_ONCE_SECONDS;
	}
	return grep { $_ } values %slow;
}

# Whether it was asked all the time, and has answered for all these streams.
sub _is_well
{
	my ($self, $node, $wait) = @_;
	my ($last, $rounds) = ($wait->{from}, 0);
	foreach my $round (grep { $_->{sent} > $wait->{from} - $USUALLY_PROBED_SECONDS && $_->{sent} < $wait->{to} } @{ $self->{probes}{$node} })
	{
		return 0 if $round->{sent} > $last + $PROBED_SECONDS;
		return 0 if grep { ($round->{streams}{$_} // 'inf') > $WELL_SECONDS } @{ $wait->{streams} };
		$last = $round->{sent};
		$rounds++;
	}
	return $rounds > 0 && $wait->{to} < $last + $PROBED_SECONDS;
}

sub _outbox_phantom
{
	my ($self) = @_;
	my %table = map { $_ => 1 } grep { !$WAL{$_} } keys %OUTBOX;
	$self->_phantoms(\%table, sub { $self->_is_committed_anywhere($_[0]{name}) }, 'was not committed');
	# it is published when the standby has it
	$self->_phantoms(\%WAL, sub { $self->_is_committed($_[0]) }, 'was not committed');
	foreach my $name (grep { $self->{becomes}{$_} } sort keys %{ $self->{stored} })
	{
		my $edit = $self->{becomes}{$name}{edit};
		$self->_hold($self->_is_committed_anywhere($edit), "$name is stored, and $edit was not committed");
	}
	return;
}

# Those that were edited or deleted are of other rules.
sub _outbox
{
	my ($self) = @_;
	$self->_hold($self->_is_stored($_->{message}), "$_->{mode} $_->{message} of $_->{attempt}{name} is not stored")
		foreach grep { $OUTBOX{ $_->{mode} } && $_->{mode} ne 'large' && !$self->_edits_of($_->{message}) && !$self->_may_be_lost($_) } $self->_committed_calls;
	$self->_hold(0, "$_ is left in the outbox") foreach @{ $self->{waiting} };
	return;
}

# What has been committed, in order.
sub _edits_of
{
	my ($self, $message) = @_;
	return grep { $self->{committed}{ $_->{edit} } } @{ $self->{edits}{$message} // [] };
}

# The names that a message had under each of its ids, the last one behind. Nothing, if it was deleted.
sub _names_by_id
{
	my ($self, $message) = @_;
	my @ids = [$message];
	foreach my $edit ($self->_edits_of($message))
	{
		return unless defined $edit->{to};
		push @ids, [] if $edit->{new_id};
		push @{ $ids[-1] }, $edit->{to};
	}
	return @ids;
}

# A transaction that was tried again when its COMMIT was lost may have made two rows of a message.
sub _has_one_row
{
	my ($self, $message) = @_;
	return 1 == grep { !$_->{undone} && $self->_is_committed_anywhere($_->{attempt}{name}) } @{ $self->{calls}{$message} // [] };
}

sub _edited
{
	my ($self) = @_;
	foreach my $message (grep { $self->_has_one_row($_) } sort keys %{ $self->{edits} })
	{
		my ($name, @edits) = ($message, $self->_edits_of($message));
		foreach my $edit (@edits)
		{
			$self->_hold($edit->{from} eq $name, "$name is found as $edit->{from} by $edit->{edit}");
			$name = $edit->{to} // 'deleted';
		}
		my @ids = $self->_names_by_id($message);
		next unless @edits && @ids;
		$self->_hold(scalar(grep { $self->_is_stored($_) } @{ $ids[-1] }), "$message is not stored as", join(' or ', @{ $ids[-1] }));
	}
	return;
}

# By the boxes. What an old primary has it has as it was.
sub _sent_late
{
	my ($self) = @_;
	return if %{ $self->{elsewhere} };
	foreach my $message (grep { $self->_has_one_row($_) } sort keys %{ $self->{edits} })
	{
		foreach my $edit (grep { defined $_->{done_at} } $self->_edits_of($message))
		{
			my ($late) = grep { $_ > $edit->{done_at} + $EDITED_SECONDS } @{ $self->{seen}{ $edit->{from} } // [] };
			$self->_hold(!defined $late, "$edit->{from} was changed by $edit->{edit} at $edit->{done_at}, and is sent at", $late // '');
		}
	}
	return;
}

sub _given_up
{
	my ($self) = @_;
	my %dead = map { $_ => 1 } @{ $self->{dead} };
	foreach my $name (sort keys %dead)
	{
		my $mode = ($self->{calls}{$name} // [ { mode => 'edited' } ])->[0]{mode};
		$self->_hold($mode eq 'large', "$mode $name is dead");
	}
	foreach my $message (map { $_->{message} } grep { $_->{mode} eq 'large' } $self->_committed_calls)
	{
		$self->_hold(!$self->_is_stored($message), "$message is too large, and stored");
		$self->_hold($dead{$message}, "$message is too large, and not dead") unless $self->_edits_of($message);
	}
	return;
}

# From each fault of a name to the first one that ends it.
sub _periods
{
	my ($self, $begin, $end) = @_;
	my (@periods, $from);
	foreach my $fault (@{ $self->{faults} })
	{
		if ($fault->{what} eq $begin) { $from = $fault->{at}; }
		elsif (defined $from && $fault->{what} =~ $end)
		{
			push @periods, { from => $from, to => $fault->{at} };
			$from = undef;
		}
	}
	return @periods;
}

# What happens in a calm, happens to sessions, or ends it.
sub _calms { return $_[0]->_periods('calm_begin', qr/^(?!backend_(?:terminate|cancel)$)/); }

# As long as every node answers; how fast says how fast messages can be.
sub _healthy
{
	my ($self) = @_;
	my @canaries = grep { $_->{name} =~ /^$self->{canary}\./ && ($_->{done} // '') eq 'committed' } $self->_attempts;
	foreach my $calm ($self->_calms)
	{
		foreach my $attempt (@canaries)
		{
			next if $attempt->{end_at} < $calm->{from} + $RELAY_SETTLED_SECONDS;
			my $slowest = $self->_slowest_probe($attempt->{end_at}, $attempt->{done_at} + $HEALTHY_SECONDS);
			foreach my $call (@{ $attempt->{calls} })
			{
				# those before it go one after the other
				my $before = grep { $_->{done_at} < $attempt->{done_at} && ($self->_stored_at($_->{calls}[ $call->{number} ]{message}) // 'inf') > $attempt->{done_at} } @canaries;
				my $bound = $HEALTHY_SECONDS + $HEALTHY_PROBES * (1 + $before) * $slowest;
				$self->_is_soon_stored($call, $bound) if $attempt->{done_at} + $bound <= $calm->{to};
			}
		}
	}
	return;
}

sub _stored_at { my ($self, $message) = @_; return ($self->{stored}{$message} // [ {} ])->[0]{stored_at}; }

sub _is_soon_stored
{
	my ($self, $call, $bound) = @_;
	my $done_at = $call->{attempt}{done_at};
	my $seconds = ($self->_stored_at($call->{message}) // 'inf') - $done_at;
	$self->{slowest}{ $call->{mode} } = $seconds if $seconds > ($self->{slowest}{ $call->{mode} } // 0);
	return $self->_hold($seconds < $bound, "$call->{mode} $call->{message} was committed at $done_at, and stored $seconds s later, not $bound s");
}

# Of all nodes and streams; one that was not made in time, or not answered, took for ever.
sub _slowest_probe
{
	my ($self, $from, $to) = @_;
	my $slowest = 0;
	foreach my $node (keys %{ $self->{probes} })
	{
		my @rounds = grep { $_->{sent} > $from - $USUALLY_PROBED_SECONDS && $_->{sent} < $to } @{ $self->{probes}{$node} };
		my @gaps = map { $rounds[$_]{sent} - $rounds[ $_ - 1 ]{sent} - $USUALLY_PROBED_SECONDS } 1 .. $#rounds;
		$slowest = max($slowest, @gaps, @rounds ? map { values %{ $_->{streams} } } @rounds : 'inf');
	}
	return $slowest;
}

# Until when what was written at a look must be confirmed: for an outage, or for its size. Nothing, if it need not.
sub _let_go_until
{
	my ($look, @outages) = @_;
	my ($outage) = grep { $_->{from} < $look->{at} && $look->{at} < $_->{to} } @outages;
	my $until = max($look->{at}, ($outage // { from => $look->{at} })->{from} + $Chaos::Plan::DIVERT_SECONDS) + $MOVED_SECONDS;
	return ($until) if ($outage && $until < $outage->{to}) || $look->{written} - $look->{confirmed} > $Chaos::Plan::DIVERT_BYTES;
	return;
}

# Unless something happened to the relay meanwhile.
sub _wal_let_go
{
	my ($self) = @_;
	my @disturbed = map { $_->{at} } grep { $_->{what} =~ /^(postgres_|relay_|backend_kill|promote)/ } @{ $self->{faults} };
	my @outages = $self->_periods('boxes_refuse', qr/^boxes_accept/);
	foreach my $database (sort keys %{ $self->{wal} })
	{
		my @looks = @{ $self->{wal}{$database} };
		foreach my $look (grep { $_->{confirmed} < $_->{written} } @looks)
		{
			my ($until) = _let_go_until($look, @outages) or next;
			my ($then) = grep { $_->{at} > $until } @looks or last;
			next if grep { $_ > $look->{at} - $RELAY_BEGINS_SECONDS && $_ < $then->{at} } @disturbed;
			my $kept = $look->{written} - $then->{confirmed};
			$self->_hold($kept <= 0, "$database has not confirmed $kept of", $look->{written} - $look->{confirmed}, "bytes that there were at $look->{at} by $then->{at}");
		}
	}
	return;
}

# Nor two of its edits, in a stream, while it has one id: there is the duplicate window.
sub _twice
{
	my ($self) = @_;
	foreach my $name (keys %{ $self->{stored} })
	{
		my @at = map { "$_->{stream} $_->{seq}" } @{ $self->{stored}{$name} };
		$self->_hold(@at == 1, "$name is stored at", join(', ', @at));
	}
	foreach my $message (grep { $self->_has_one_row($_) } sort keys %{ $self->{edits} })
	{
		foreach my $names ($self->_names_by_id($message))
		{
			my %streams;
			push @{ $streams{ $_->{stream} } }, $_->{seq} foreach map { @{ $self->{stored}{$_} // [] } } @$names;
			$self->_hold(@{ $streams{$_} } == 1, "$_ has under one id", join(' and ', @$names), 'at', join(', ', @{ $streams{$_} })) foreach sort keys %streams;
		}
	}
	return;
}

# The sequences that a session was told do not go back; but for messages tried again, which keep their place.
sub _order_sync
{
	my ($self) = @_;
	my %last;
	foreach my $attempt (sort { _by_number($a->{name}, $b->{name}) } $self->_attempts)
	{
		my ($client) = split /\./, $attempt->{name};
		foreach my $call (grep { $_->{mode} eq 'sync' && defined $_->{seq} } @{ $attempt->{calls} })
		{
			next if @{ $self->{calls}{ $call->{message} } } > 1;
			$self->_hold($call->{seq} > ($last{$client} // 0), "$call->{message} is at $call->{seq}, after one at " . ($last{$client} // 0));
			$last{$client} = $call->{seq};
		}
	}
	return;
}

# In the order of the rows, of which a message that was tried again after a lost COMMIT may have two. What was edited while it was
# on its way is there twice, and the first one counts. Neither what has got another subject has a place, nor what came back from the dead,
# nor what an old primary still has that was edited or deleted since, nor what has lost its next_attempt_at, and is seen as late as the relay looks
# at all rows.
sub _order_outbox
{
	my ($self) = @_;
	return unless $self->{strict};
	my %row = map { ($_->{message} => $_->{row}) } grep { defined $_->{row} && $_->{mode} ne 'large' && @{ $self->{calls}{ $_->{message} } } == 1 }
		map { @{ $_->{calls} } } grep { $self->_is_committed($_) } $self->_attempts;
	foreach my $message (keys %{ $self->{edits} })
	{
		delete $row{$message} if grep { %{ $self->{elsewhere} } || (defined $_->{to} && $_->{subject} ne $self->_first_subject($message)) } $self->_edits_of($message);
	}
	delete @row{ keys %{ $self->{timeless} } };
	$self->_order_rows($_, \%row) foreach @ORDERED;
	return;
}

# Who had been told of his COMMIT before another one was sent comes before it; and the messages of a transaction in the order of its calls.
sub _order_wal
{
	my ($self) = @_;
	return unless $self->{strict};
	my %last;
	foreach my $message (map { @{ $self->{streams}{$_} // [] } } @WAL_STREAMS)
	{
		my ($call, @more) = grep { !$_->{undone} && $self->_is_committed($_->{attempt}) } @{ $self->{calls}{ $message->{name} } // [] };
		next if !$call || @more;
		$self->_follows($call, $last{ $message->{subject} } //= { sent => undef, calls => {} });
	}
	return;
}

# Whether it may come after all that was before it of its subject: of these the last COMMIT that was sent, and the last call of each transaction.
sub _follows
{
	my ($self, $call, $last) = @_;
	my $attempt = $call->{attempt};
	my $before = $last->{calls}{ $attempt->{name} };
	my $sent = $last->{sent} // $attempt;
	my $told = ($attempt->{done} // '') =~ /^(committed|unknown)$/ ? $attempt->{done_at} : 'inf';
	$self->_hold($told >= $sent->{end_at} - $ROUNDED_SECONDS && (!$before || $before->{number} <= $call->{number}),
		"$call->{message}, whose COMMIT was told at $told, comes after $sent->{name}, whose was sent at $sent->{end_at}" . ($before ? ", and after $before->{message}" : ''));
	$last->{calls}{ $attempt->{name} } = $call;
	$last->{sent} = $attempt if $attempt->{end_at} >= $sent->{end_at};
	return;
}

# What a run has read is behind its beginning; so there are as many as there were runs from each one on.
sub _rows_read
{
	my ($self) = @_;
	foreach my $delivery (@Chaos::Plan::KEPT)
	{
		my @began = sort { $a <=> $b } map { $_->{from} } grep { $_->{delivery} eq $delivery } @{ $self->{runs} };
		@began = grep { $_ > $self->{wal_began} } @began if $delivery eq 'wal' && defined $self->{wal_began};
		foreach my $row (grep { $_->{delivery} eq $delivery } @{ $self->{rows} })
		{
			my @read = map { $_->{stored_at} } grep { $_->{op} eq 'read' } @{ $self->{kept}{$delivery}{ $row->{key} } // [] };
			foreach my $number (0 .. $#began)
			{
				my $found = grep { $_ > $began[$number] - $ROUNDED_SECONDS } @read;
				$self->_hold($found >= @began - $number, "$delivery $row->{key} was read $found times since $began[$number], in", @began - $number, 'runs');
			}
		}
	}
	return;
}

# Of a key, what was read and the changes that were committed.
sub _of_key
{
	my ($self, $delivery, $key) = @_;
	return grep { $_->{op} eq 'read' || $self->{committed}{ $_->{attempt} } } @{ $self->{kept}{$delivery}{$key} // [] };
}

# relaxed is none for what the relays publish.
sub _is_ordered { my ($self, $delivery) = @_; return $self->{strict} || $delivery eq 'on_commit'; }

sub _rows_in_order
{
	my ($self) = @_;
	foreach my $row (grep { $self->_is_ordered($_->{delivery}) } @{ $self->{rows} })
	{
		my $last = { version => -1, seq => 'none' };
		foreach my $message ($self->_of_key(@$row{qw(delivery key)}))
		{
			my $holds = $message->{version} > $last->{version} || ($message->{op} eq 'read' && $message->{version} == $last->{version});
			$self->_hold($holds || $self->_was_on_its_way_as_read($message),
				"$row->{delivery} $row->{key}: $message->{op} $message->{seq} has version $message->{version}, and $last->{seq} had $last->{version}");
			$last = $message if $message->{version} > $last->{version};
		}
	}
	return;
}

# A chunk whose COMMIT has failed can't take back what is in the kernels of other machines, and keeps nobody from changing its rows.
sub _was_on_its_way_as_read
{
	my ($self, $message) = @_;
	return 0 if $message->{op} ne 'read' || $message->{delivery} ne 'on_commit';
	my ($newer) = grep { $_->{version} > $message->{version} } $self->_of_key(@$message{qw(delivery key)});
	my $changed_at = $newer->{op} eq 'read' ? $newer->{stored_at} : $self->{attempts}{ $newer->{attempt} }{done_at} // $newer->{stored_at};
	return scalar grep { $_->{delivery} eq 'on_commit' && $_->{at} < $changed_at + $LOST_SECONDS && $_->{at} < $message->{stored_at} + $LOST_SECONDS } @{ $self->{failed_runs} };
}

sub _rows_last
{
	my ($self) = @_;
	foreach my $row (@{ $self->{rows} })
	{
		my @versions = map { $_->{version} } $self->_of_key(@$row{qw(delivery key)});
		my $last = ($self->_is_ordered($row->{delivery}) ? $versions[-1] : max(@versions)) // 'none';
		$self->_hold($last eq $row->{version}, "$row->{delivery} $row->{key} has version $row->{version}, and the stream $last");
	}
	return;
}

sub _first_subject
{
	my ($self, $message) = @_;
	my ($client) = split /\./, $message;
	return Chaos::Plan::subject($self->{calls}{$message}[0]{mode}, $client);
}

# Of a stream. Takes the rows from the hash.
sub _order_rows
{
	my ($self, $stream, $row) = @_;
	my %last;
	foreach my $message (@{ $self->{streams}{$stream} // [] })
	{
		my $id = delete $row->{ _first_name($message->{name}) } // next;
		my $last = $last{ $message->{subject} } // [ 0, 'none' ];
		$self->_hold($id > $last->[0], "$message->{name} (row $id) comes after $last->[1] (row $last->[0])");
		$last{ $message->{subject} } = [ $id, $message->{name} ];
	}
	return;
}

sub _by_number
{
	my ($left, $right) = map { [ split /\./ ] } @_;
	return $left->[0] <=> $right->[0] || $left->[1] <=> $right->[1] || $left->[2] <=> $right->[2];
}

sub _atomic
{
	my ($self) = @_;
	my %batch;
	foreach my $attempt ($self->_attempts)
	{
		my @messages = map { $_->{message} } grep { $_->{mode} eq 'atomic' && !$_->{undone} } @{ $attempt->{calls} };
		next unless @messages && ($attempt->{end} // '') eq 'commit';
		my @seqs = map { map { $_->{seq} } @{ $self->{stored}{$_} // [] } } @messages;
		next if !@seqs && !$self->_is_committed($attempt);
		my $whole = @seqs == @messages && !grep { $seqs[$_] != $seqs[0] + $_ } 0 .. $#seqs;
		$self->_hold($whole, "the " . @messages . " messages of $attempt->{name} are at", join(', ', @seqs));
	}
	return;
}

# What was refused for certain each time, and never may have been sent otherwise.
sub _refused
{
	my ($self) = @_;
	foreach my $message (keys %{ $self->{calls} })
	{
		my $calls = $self->{calls}{$message};
		next unless $calls->[0]{mode} =~ /^(sync|async|uncritical|change_sync)$/;
		my @told = map { $_->{awaited} // $_->{told} // 'lost' } @$calls;
		next if grep { $_ eq 'ok' || $EITHER{$_} } @told;
		$self->_hold(!$self->_is_stored($message), "$calls->[0]{mode} $message is stored, but was told @told: $calls->[0]{text}");
	}
	return;
}

# What COMMIT was told of its messages: how many are stored, have failed, were not sent, and how many of those that have
# failed are certainly not stored, as far as it is told. Nothing, if it was not told of messages.
sub _told_counts
{
	my ($attempt, $count) = @_;
	my ($text, $detail) = map { $_ // '' } @$attempt{ 'text', 'detail' };
	my $either = $EITHER{ $attempt->{done} };
	return (0, $count, 0, $either ? 0 : $count) if $text =~ /messages as one batch: /;
	my ($several) = $text =~ /could not publish (?:(\d+) messages of this transaction|to "[^"]*"): / or return;
	my ($stored, $failed, $unsent) = $detail =~ /transaction's messages: (\d+) stored, (\d+) failed, (\d+) not sent/;
	($stored, $failed, $unsent) = (0, $several // 1, 0) unless defined $stored;
	# the first few of several are told
	my $certain = defined $several ? () = $detail =~ /$REFUSED/g : !$either;
	return ($stored, $failed, $unsent, $certain || 0);
}

# "Of the transaction's messages: 6 stored, 3 failed, 0 not sent." Without that, all have failed.
sub _told_by_commit
{
	my ($self) = @_;
	foreach my $attempt (grep { ($_->{end} // '') eq 'commit' && $_->{done} } $self->_attempts)
	{
		# those that the COMMIT waited for or sent, tried once
		my @calls = grep { !$_->{undone} && ($_->{told} // '') eq 'ok' && $CRITICAL{ $_->{mode} } } @{ $attempt->{calls} };
		next if grep { @{ $self->{calls}{ $_->{message} } } > 1 } @calls;
		my ($stored, $failed, $unsent, $certain) = _told_counts($attempt, scalar @calls) or next;
		my $found = grep { $self->_is_stored($_->{message}) } @calls;
		$self->_hold($found >= $stored && $found <= $stored + $failed - $certain,
			"$attempt->{name} was told $attempt->{done}, $stored stored, $failed failed, $certain for certain, and $unsent not sent;",
			"$found of " . @calls . ' are stored');
	}
	return;
}

# A standby that was promoted has no slot until it is given one.
sub _is_known { my ($self, $told) = @_; return $KNOWN{$told} || ($told eq '55000' && defined $self->{wal_began}); }

sub _documented
{
	my ($self) = @_;
	foreach my $attempt ($self->_attempts)
	{
		foreach my $call (@{ $attempt->{calls} })
		{
			foreach my $told (grep { defined && !/^(ok|lost)$/ } @$call{ 'told', 'awaited' })
			{
				$self->_hold($self->_is_known($told), "$call->{mode} $call->{message} was told $told:", $call->{text} // '');
			}
		}
		next unless ($attempt->{done} // '') =~ /^[0-9A-Z]{5}$/;
		$self->_hold($KNOWN{ $attempt->{done} }, "$attempt->{name} was told $attempt->{done}: $attempt->{text}");
	}
	# a session that was lost is not known to be by PostgreSQL at once
	my %told = (%KNOWN, lost => 1, 55006 => 1);
	$self->_hold($told{ $_->{told} }, "nats_publish_rows() was told $_->{told}: $_->{text}") foreach @{ $self->{failed_runs} };
	return;
}

sub _invented
{
	my ($self) = @_;
	foreach my $message (map { @$_ } @{ $self->{streams} }{ sort keys %{ $self->{streams} } })
	{
		my $edit = $self->{becomes}{ $message->{name} };
		my $subject = $edit ? $edit->{subject} : $self->{calls}{ $message->{name} } ? $self->_first_subject($message->{name}) : 'none';
		my (undef, $length, $rest) = split /\|/, $message->{payload}, 3;
		$self->_hold($message->{subject} eq $subject && $rest eq 'x' x $length && $length == ($edit ? $edit->{length} : $length),
			"$message->{stream} $message->{seq}, $message->{subject}: " . substr($message->{payload}, 0, 60));
	}
	return;
}

# It is stored under a name that it had before an edit, or though it was deleted.
sub _was_on_its_way
{
	my ($self, $message) = @_;
	return grep { $self->_is_stored($_->{from}) } $self->_edits_of($message);
}

# What to print: how many there were of each kind.
sub counts
{
	my ($self) = @_;
	my %count;
	foreach my $attempt ($self->_attempts)
	{
		$count{"transactions $_"}++ foreach $self->_is_committed($attempt) ? 'committed' : 'not committed';
		$count{ 'COMMIT told ' . ($attempt->{done} // 'nothing') }++ if ($attempt->{end} // '') eq 'commit';
		$count{"messages $_->{mode}"}++, $count{ 'calls told ' . ($_->{awaited} // $_->{told} // 'nothing') }++ foreach @{ $attempt->{calls} };
	}
	$count{"stored in $_"} = @{ $self->{streams}{$_} } foreach keys %{ $self->{streams} };
	$count{ ($self->_is_committed_anywhere($_->{edit}) ? '' : 'uncommitted ') . (defined $_->{to} ? $_->{new_id} ? 'edits with a new id' : 'edits' : 'deletions') }++
		foreach map { @$_ } values %{ $self->{edits} };
	$count{"edits stored as they were on their way"} = grep { $self->_was_on_its_way($_) } keys %{ $self->{edits} };
	$count{"touched: $_"} = $self->{touched}{$_} foreach keys %{ $self->{touched} };
	$count{'dead'} = @{ $self->{dead} };
	$count{"slowest $_ canary in a calm, ms"} = $self->{slowest}{$_} * 1000 foreach keys %{ $self->{slowest} };
	$count{"runs of nats_publish_rows, $_->{delivery}"}++ foreach @{ $self->{runs} };
	$count{"calls of nats_publish_rows told $_->{told}"}++ foreach @{ $self->{failed_runs} };
	$count{'stored in CHAOS_KEPT'} = map { map { @$_ } values %$_ } values %{ $self->{kept} };
	$count{'of the WAL that may be lost'} = grep { $self->_may_be_lost($_) && !$self->_is_stored($_->{message}) } $self->_committed_calls;
	return %count;
}

1;
