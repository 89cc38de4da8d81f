"""What commands will take: seconds of this machine, money, and the law of many machines."""
