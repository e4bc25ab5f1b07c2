from fusedlm.cli import main

main()
