
=pod

=head1 NAME

Chaos::Network - the network between PostgreSQL and the nodes, and what happens to it

=head1 SYNOPSIS

  use Chaos::Network;

  Chaos::Network::within($node)      # the words of a command that runs another one at node 1, 2, 3
  Chaos::Network::address($node)
  Chaos::Network::cut($node, 'both');
  Chaos::Network::slow($node, $kilobits);
  Chaos::Network::heal($node);

=head1 DESCRIPTION

test/chaos/in_network has made a network namespace for each node, with a veth pair to the one that PostgreSQL and the
clients are in, and tells the processes that hold them in CHAOS_NODES.

What is cut is dropped in silence, as by a broken switch: connections stay open until somebody gives them up.

=cut

package Chaos::Network;

use strict;
use warnings FATAL => 'all';

my @holders = split / /, $ENV{CHAOS_NODES} // '';

sub within { my ($node) = @_; return ('nsenter', '-t', $holders[ $node - 1 ], '-n'); }
sub address { my ($node) = @_; return "10.77.$node.2"; }

# To the node (in), from it (out), or both.
sub cut
{
	my ($node, $direction) = @_;
	_shape($node, $_, qw(pfifo limit 0)) foreach $direction eq 'both' ? qw(in out) : $direction;
	return;
}

sub slow
{
	my ($node, $kilobits) = @_;
	_shape($node, $_, 'tbf', 'rate', "${kilobits}kbit", qw(burst 3k latency 400ms)) foreach qw(in out);
	return;
}

sub heal
{
	my ($node) = @_;
	_shape($node, $_, qw(pfifo limit 1000)) foreach qw(in out);
	return;
}

sub _shape
{
	my ($node, $direction, @discipline) = @_;
	my @command = $direction eq 'in' ? ('tc', 'qdisc', 'replace', 'dev', "node$node") :
		(within($node), 'tc', 'qdisc', 'replace', 'dev', 'eth0');
	system(@command, 'root', @discipline) == 0 or die "@command root @discipline: status $?";
	return;
}

1;
